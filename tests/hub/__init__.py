"""An in-memory Hugging Face Hub on loopback, spoken to by unpatched clients.

Read in this order: `gitobjects` (object ids), `xorb`, `shard` and `cas` (files as chunks), `store` (users,
repositories, commits), `commits` (what one commit may do), `card` (what a README may say), `views` (the JSON of each
object), `api`, `content`, `lfs` and `xet` (the routes), `faults` (what goes wrong on demand), `app`, `server` (start
it), `client` (talk to it).

It speaks Xet, the clients' default for large files, and LFS, which `client.run_client(..., xet=False)` asks for.
"""
