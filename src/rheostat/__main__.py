"""`python -m rheostat` is the command line (torchrun: `torchrun -m rheostat train …`)."""

from rheostat.cli.app import main

if __name__ == "__main__":
    main()
