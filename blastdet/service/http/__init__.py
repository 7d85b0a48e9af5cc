"""What all routes share: who asks, bodies, disk space of a user, failures, and the schemas of answers.

It imports `core`, and of the service what the routes stand on, never a route.
"""
