"""What several tests need: things to run and files to write."""
