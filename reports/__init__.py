"""A run as one HTML page that a person can read, search and send on."""
