"""
Measurements of creditsync and its peers; see C{README.rst} in this folder.
"""
