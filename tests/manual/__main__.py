"""`python -m tests.manual` writes the parts of README and docs/ that are made from code and kept results."""

from tests.manual.generated import main

if __name__ == "__main__":
    main()
