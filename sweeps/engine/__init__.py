"""The only room that imports Ray: connection, capacity, resources, trials (Tune) and sampling actors (Data)."""
