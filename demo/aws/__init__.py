"""A local stand-in for AWS, for the demo and the tests only.

A strict STS (signatures, MFA codes, expiry, role trust) in front of a moto server that plays S3, EC2 and IAM.
Users, sessions and used codes are kept in the state folder; moto's resources are in memory and gone after a
restart. Nothing of the application may import this package: it holds its own device secrets and signs for
nobody else.
"""
