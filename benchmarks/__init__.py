"""
What is measured, and against whom; see C{README.rst} in this folder.
"""
