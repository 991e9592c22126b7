"""What things cost, and where: run by hand, each with a table as its answer."""
