"""A real guest's recorded events, played through the bus and judged.

* `source`: where a trace log comes from: shipped, a file, standard input
* `script`: a log as steps to play
* `pages`: what is mapped, page by page
* `judge`: what must be true after a `sync`, read from the trace alone
* `picture`: the I/O address space over time, as a grid of shares
* `result`: what came out, the figures and the verdict
* `subscribers`: those who keep translations, like VFIO and like vhost
* `counters`: those who only count
* `casting`: a space, its judge and those who listen to it
* `endpoints`: what moves from space to space, and who follows it
* `player`: plays a script on a bus, on any loop
* `job`: several logs one after the other, on one loop
* `canvas`: a picture as text
* `view`: how a person sees it; these two alone need rich

Everything that decides is plain code; `subscribers`, `endpoints` and `player` await.
"""
