"""What is made of the records for others: files to open, names to ask by, and trails wherever they are kept."""
