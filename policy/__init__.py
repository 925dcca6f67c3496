"""Pure rules: no Flask, no database session, no boto3, no clock that is not passed in."""
