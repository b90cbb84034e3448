"""The parts of `make gpu`: each module has `run(job)`, and runs in a process of its own."""
