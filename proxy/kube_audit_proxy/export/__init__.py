"""What is made of the records for others: files to open, lines to ship."""
