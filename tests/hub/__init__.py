"""An in-memory Hugging Face Hub on loopback, spoken to by unpatched clients.

Read in this order: `gitobjects` (object ids), `store` (users, repositories, commits), `commits` (what one commit may
do), `card` (what a README may say), `views` (the JSON of each object), `api`, `content` and `lfs` (the routes), `app`,
`server` (start it), `client` (talk to it).

It speaks HTTP and LFS, not Xet: clients need HF_HUB_DISABLE_XET=1, which `client.run_client` sets.
"""
