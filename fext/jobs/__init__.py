"""What a user can start: each job takes settings, parts and a reporter and returns a frozen result."""
