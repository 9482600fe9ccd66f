"""
What a client says and is answered, free of any transport.

Private: nothing outside of this package of distributions imports it.
"""
