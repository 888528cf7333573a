"""A reranking server over HTTP. It needs the extra `serve`; `ssmrank.commands.serve` starts it.

`app` has the routes, `forms` what they read and write, `service` a request's way through the server, `batcher` the
thread that owns the model, and `server` the sockets and signals.
"""
