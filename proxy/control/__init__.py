"""What the operator holds: flags, statistics, the admin port."""
