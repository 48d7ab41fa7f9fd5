"""What is recorded of a call: the fields, the commands they add up to, and what is kept out of them."""
