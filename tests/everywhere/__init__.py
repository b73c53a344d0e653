"""What is built on a store, judged on the databases of production."""
