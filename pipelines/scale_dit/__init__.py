"""Scale-DiT: large pictures stage by stage, each guided by the one before (arXiv 2510.16325)."""
