"""`python -m asrcompress`."""

from asrcompress.cli.main import main

main()
