"""What every stage stands on: steps and their graph, the store of their files, attempts, tables. Imports no Ray."""
