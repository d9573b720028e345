"""`python -m patch2tissue` is the command line."""

from patch2tissue.cli.app import main

if __name__ == "__main__":
    main()
