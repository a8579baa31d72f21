"""What bridges have in common: sockets of other programs, what was agreed with them, and replies that have to wait.

* `telling`: what a bridge says of itself
* `accepting`: the next connection to a listening socket
* `messages`: whole messages with their descriptors over a Unix socket
* `faults`: what a peer causes, out of the groups of tasks
* `replies`: answers that leave in the order of the questions, whenever they are ready
* `barrier`: a `sync` that is not given up before nobody uses what was unmapped
* `memories`: descriptors that came from a peer, as memories of the bus
* `addresses`: where the memories of the bus are in this process, for the kernel
* `regions`: the memory table of a vhost-user front end
* `dma`: reading and writing at I/O virtual addresses
* `vring`: the device's side of a virtqueue
"""
