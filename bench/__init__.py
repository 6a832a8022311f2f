"""What fazt costs, measured beside its peers in one run. `make bench` prints the table."""
