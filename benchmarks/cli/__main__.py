"""`python -m benchmarks.cli`: the command `fastmoco`, where its script is not on the path."""

from benchmarks.cli import main

main()
