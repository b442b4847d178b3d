"""Tessera Studio: requests, jobs, gallery, command line and page over `pipelines`.

Import what you need from the modules; the package itself imports nothing, so that
`python -m studio --help` answers at once.
"""
