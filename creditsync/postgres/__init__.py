"""
Many nodes on one PostgreSQL: a connection in the reactor, the doorbell by which nodes
hear of one another's bookings, and what a start checks.
"""
