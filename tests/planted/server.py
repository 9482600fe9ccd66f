"""
C{creditsync serve} with a bug in it:

    python -m tests.planted.server NAME [options of creditsync serve]
"""

import sys

from creditsync._cli import serve
from tests.planted.bugs import plant

if __name__ == "__main__":
    plant(sys.argv[1])
    serve.run(sys.argv[2:])
