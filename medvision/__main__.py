"""`python -m medvision train ...` is `medvision train ...`."""

from medvision.cli.entry import main

main()
