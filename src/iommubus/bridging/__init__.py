"""What bridges have in common: sockets of other programs, what was agreed with them, and replies that have to wait.

* `telling`: what a bridge says of itself
* `sockets`: connections over Unix sockets
* `messages`: whole messages with their descriptors over a Unix socket
* `faults`: what a peer causes
* `replies`: answers that leave in the order of the questions, whenever they are ready
* `barrier`: a `sync` that is not given up before nobody uses what was unmapped
* `memories`: descriptors that came from a peer, as memories of the bus
* `addresses`: where the memories of the bus are in this process, for the kernel
* `kernel`: the kernel's calls, and its refusals in words
* `regions`: the memory table of a vhost-user front end
* `dma`: reading and writing at I/O virtual addresses
* `vring`: the device's side of a virtqueue
"""
