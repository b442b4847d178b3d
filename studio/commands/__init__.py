"""What the shell's commands do, one module per room; `studio.cli` has their arguments."""
