"""One module a command, one public function each; no step imports another.

A step reads the folders that earlier steps wrote, calls the rooms below and writes its own folder. It gets a request of
plain values, asks no registry and prints nothing: what it has to say is in the report that it returns.
"""
