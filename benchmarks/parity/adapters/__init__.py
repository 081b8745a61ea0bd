"""One module for each framework: it runs in that framework's own virtual environment, and uses only what the
framework documents. The top of a module imports nothing of the framework, so that the measuring side can read
what it says.
"""
