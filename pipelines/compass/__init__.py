"""CoMPaSS (arXiv 2412.13195): what a prompt says about space is what the picture shows."""
