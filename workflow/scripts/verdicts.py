"""Print the verdicts on the claims: `python workflow/scripts/verdicts.py CLAIMS.parquet`."""

import sys

from robustgen.claims import describe
from robustgen.errors import UserError
from robustgen.files import read_table
from robustgen.tables import CLAIMS

try:
    print(describe(read_table(sys.argv[1], CLAIMS)))
except UserError as error:
    sys.exit(f"robustgen: {error}")
