"""The `ray` command on the loopback address: it would give a second node the host's own."""

from ray._private import services

services.get_node_ip_address = lambda *_: "127.0.0.1"

from ray.scripts.scripts import main  # noqa: E402 - it takes the function by name

main()
