"""`python -m modelwright.cli`, the form that a launcher such as torchrun starts."""

from modelwright.cli import main

if __name__ == "__main__":
    main()
