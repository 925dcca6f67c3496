"""The services against a real database, a real Redis and the AWS stand-in."""
