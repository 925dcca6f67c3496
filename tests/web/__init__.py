"""The pages, through the test client."""
