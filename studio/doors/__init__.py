"""The doors to `pipelines`: apart from the doctor, nothing else in the studio imports it."""
