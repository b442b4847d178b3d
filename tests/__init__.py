"""The package file keeps a foreign `tests` package on the path from shadowing this one."""
