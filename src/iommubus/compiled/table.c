/* The table of one space, compiled.
 *
 * `iommubus.table.PureTable` says what it does; this one does the same, step by
 * step: it divides and joins its chunks where that one does, so that what one is
 * tested to do the other can be compared with.
 *
 * A chunk is one block of memory with a column for each field.  It is counted who
 * holds it: what was cut out of a table and what was copied of it (`Pieces`) share
 * whole chunks with it, and who changes a chunk that is held elsewhere changes a
 * copy.
 *
 * No object here can be part of a cycle, and so none is known to the garbage
 * collector: all that is held are permissions and memories, which are values that
 * it does not know either.
 *
 * Whatever can run somebody else's code, which may come back to the same table, is
 * done before a table is looked into, or `version` is compared afterwards.
 */

#include "fields.h"
#include <string.h>

#define CHUNK 128  /* as in table.py */
#define STAY 8     /* as in table.py; nothing is thawed here */
#define KINDS 1024 /* as in kinds.py */
#define PLAIN 4    /* as in kinds.py: attributes below are permissions, bare of a memory */
#define FETCH 1024 /* bytes: the first addresses of most chunks */
#define LEAST 4    /* mappings that a new chunk has room for */
#define ROW (3 * sizeof(uint64_t) + sizeof(uint32_t))

static PyObject *overlap_error, *straddle_error, *memory_type, *mapping_type, *cut_type;
static PyObject *perms[PLAIN];
static PyTypeObject *table_type, *pieces_type, *iterator_type;

/* -- arguments --------------------------------------------------------------- */

/* Put the arguments of a call, some of them by name, in the order of their names. */
static int
gather_named(PyObject *const *args, Py_ssize_t given, PyObject *words, const char *const *names, Py_ssize_t least,
       Py_ssize_t most, PyObject **out)
{
    Py_ssize_t at, word, worded = words ? PyTuple_GET_SIZE(words) : 0;

    for (at = 0; at < most; at++)
        out[at] = at < given ? args[at] : NULL;
    for (word = 0; word < worded; word++) {
        PyObject *name = PyTuple_GET_ITEM(words, word);
        for (at = 0; at < most && PyUnicode_CompareWithASCIIString(name, names[at]); at++)
            ;
        if (at == most || out[at]) {
            PyErr_Format(PyExc_TypeError, "unexpected argument %R", name);
            return -1;
        }
        out[at] = args[given + word];
    }
    for (at = 0; at < least && out[at]; at++)
        ;
    if (given > most || at < least) {
        PyErr_Format(PyExc_TypeError, "takes from %zd to %zd arguments", least, most);
        return -1;
    }
    return 0;
}

/* Put the arguments of a call in the order of their names; what is optional and missing is NULL. */
static inline int
gather(PyObject *const *args, Py_ssize_t given, PyObject *words, const char *const *names, Py_ssize_t least,
       Py_ssize_t most, PyObject **out)
{
    if (words || given < least || given > most)
        return gather_named(args, given, words, names, least, most, out);
    for (Py_ssize_t at = 0; at < most; at++)
        out[at] = at < given ? args[at] : NULL;
    return 0;
}

static inline int
range_of(PyObject **args, uint64_t *first, uint64_t *last)
{
    if (number_of(args[0], first) < 0 || number_of(args[1], last) < 0)
        return -1;
    if (*first > *last) {
        PyErr_Format(PyExc_ValueError, "first %R is greater than last %R", args[0], args[1]);
        return -1;
    }
    return 0;
}

/* Read an address to ask about, which may be outside: 0 inside, 1 below, 2 above, -1 an error. */
static int
place_of(PyObject *object, uint64_t *number)
{
    PyObject *zero;
    int below;

    if (number_of(object, number) == 0)
        return 0;
    if (!PyErr_ExceptionMatches(PyExc_OverflowError))
        return -1;
    PyErr_Clear();
    zero = PyLong_FromLong(0);
    if (!zero)
        return -1;
    below = PyObject_RichCompareBool(object, zero, Py_LT);
    Py_DECREF(zero);
    return below < 0 ? -1 : below ? 1 : 2;
}

static int
perm_of(PyObject *object, long *perm)
{
    *perm = PyLong_AsLong(object);
    if (*perm == -1 && PyErr_Occurred())
        return -1;
    if (*perm < 0 || *perm >= PLAIN) {
        PyErr_Format(PyExc_ValueError, "%R is no permission", object);
        return -1;
    }
    return 0;
}

/* -- chunks ------------------------------------------------------------------ */

typedef struct {
    Py_ssize_t holders; /* tables and pieces */
    PyObject *kinds;    /* the list that its attributes are indices of */
    Py_ssize_t count;
    Py_ssize_t room;
    uint64_t *firsts;   /* in the columns, behind what was taken out at the front: a guest that unmaps in order does so */
    uint64_t columns[]; /* of first addresses, last addresses, targets, and attributes */
} Chunk;

static inline uint64_t *
lasts_of(Chunk *chunk)
{
    return chunk->firsts + chunk->room;
}

static inline uint64_t *
targets_of(Chunk *chunk)
{
    return chunk->firsts + 2 * chunk->room;
}

static inline uint32_t *
attrs_of(Chunk *chunk)
{
    return (uint32_t *)(chunk->columns + 3 * chunk->room) + (chunk->firsts - chunk->columns);
}

static Chunk *
chunk_new(Py_ssize_t room, PyObject *kinds)
{
    Chunk *chunk;

    if ((size_t)room > ((size_t)PY_SSIZE_T_MAX - sizeof(Chunk)) / ROW)
        return NULL;
    chunk = PyMem_Malloc(sizeof(Chunk) + (size_t)room * ROW);
    if (chunk) {
        chunk->holders = 1;
        chunk->kinds = Py_NewRef(kinds);
        chunk->count = 0;
        chunk->room = room;
        chunk->firsts = chunk->columns;
    }
    return chunk;
}

static void
chunk_drop(Chunk *chunk)
{
    if (chunk && --chunk->holders == 0) {
        PyObject *kinds = chunk->kinds;
        PyMem_Free(chunk);
        Py_DECREF(kinds);
    }
}

/* Move some mappings to where others are or were. */
static inline void
chunk_move(Chunk *chunk, Py_ssize_t from, Py_ssize_t to, Py_ssize_t count)
{
    size_t number = (size_t)count;

    memmove(chunk->firsts + to, chunk->firsts + from, number * sizeof(uint64_t));
    memmove(lasts_of(chunk) + to, lasts_of(chunk) + from, number * sizeof(uint64_t));
    memmove(targets_of(chunk) + to, targets_of(chunk) + from, number * sizeof(uint64_t));
    memmove(attrs_of(chunk) + to, attrs_of(chunk) + from, number * sizeof(uint32_t));
}

/* Have all room behind the last mapping. */
static void
chunk_settle(Chunk *chunk)
{
    Py_ssize_t before = chunk->firsts - chunk->columns;

    if (before) {
        chunk_move(chunk, 0, -before, chunk->count);
        chunk->firsts = chunk->columns;
    }
}

/* Insert a mapping, for which there is room. */
static inline void
chunk_put(Chunk *chunk, Py_ssize_t at, uint64_t first, uint64_t last, uint64_t target, uint32_t attr)
{
    Py_ssize_t before = chunk->firsts - chunk->columns;

    if (before && 2 * at < chunk->count) {
        chunk_move(chunk, 0, -1, at);
        chunk->firsts--;
    }
    else {
        if (before + chunk->count == chunk->room)
            chunk_settle(chunk);
        if (at < chunk->count)
            chunk_move(chunk, at, at + 1, chunk->count - at);
    }
    chunk->firsts[at] = first;
    lasts_of(chunk)[at] = last;
    targets_of(chunk)[at] = target;
    attrs_of(chunk)[at] = attr;
    chunk->count++;
}

/* Take out the mappings `start` to `stop` (exclusive), and move the fewer of the others. */
static inline void
chunk_take(Chunk *chunk, Py_ssize_t start, Py_ssize_t stop)
{
    Py_ssize_t gone = stop - start, behind = chunk->count - stop;

    if (start < behind) {
        if (start)
            chunk_move(chunk, 0, gone, start);
        chunk->firsts += gone;
    }
    else if (behind)
        chunk_move(chunk, stop, start, behind);
    chunk->count -= gone;
}

/* Append the mappings `start` to `stop` (exclusive) of another chunk, for which there is room. */
static void
chunk_append(Chunk *chunk, Chunk *other, Py_ssize_t start, Py_ssize_t stop)
{
    size_t more = (size_t)(stop - start);

    chunk_settle(chunk);
    memcpy(chunk->firsts + chunk->count, other->firsts + start, more * sizeof(uint64_t));
    memcpy(lasts_of(chunk) + chunk->count, lasts_of(other) + start, more * sizeof(uint64_t));
    memcpy(targets_of(chunk) + chunk->count, targets_of(other) + start, more * sizeof(uint64_t));
    memcpy(attrs_of(chunk) + chunk->count, attrs_of(other) + start, more * sizeof(uint32_t));
    chunk->count += stop - start;
}

/* Return a copy of the mappings `start` to `stop` (exclusive); NULL without an error set if there is no memory. */
static Chunk *
chunk_copy(Chunk *chunk, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t room)
{
    Chunk *copy = chunk_new(room, chunk->kinds);

    if (copy)
        chunk_append(copy, chunk, start, stop);
    return copy;
}

/* Return how many of the numbers, which are in order, are at most `most`; without a branch that a processor would guess
 * wrong half of the time. */
static inline Py_ssize_t
count_upto(const uint64_t *numbers, Py_ssize_t count, uint64_t most)
{
    const uint64_t *low = numbers;

    if (!count)
        return 0;
    while (count > 1) {
        Py_ssize_t half = count / 2;
        low = low[half - 1] <= most ? low + half : low;
        count -= half;
    }
    return low - numbers + (*low <= most);
}

static inline Py_ssize_t
count_below(const uint64_t *numbers, Py_ssize_t count, uint64_t limit)
{
    return limit ? count_upto(numbers, count, limit - 1) : 0;
}

/* Return a number as Python has it; `same` is one of that value, or NULL. */
static inline PyObject *
number_from(uint64_t number, PyObject *same)
{
    return same && PyLong_CheckExact(same) ? Py_NewRef(same) : PyLong_FromUnsignedLongLong(number);
}

/* Return the mapping of these fields; `edges` are its first and its last address, or NULL. */
static PyObject *
mapping_of(uint64_t first, uint64_t last, uint64_t target, uint32_t attr, PyObject *kinds, PyObject *const *edges)
{
    PyObject *made = NULL, *room[6] = {NULL}, **args = room + 1;
    size_t count = 4;

    if (attr < PLAIN)
        args[3] = Py_NewRef(perms[attr]);
    else {
        PyObject *kind = PyList_GET_ITEM(kinds, (Py_ssize_t)attr);
        args[3] = Py_NewRef(PyTuple_GET_ITEM(kind, 0));
        args[4] = Py_NewRef(PyTuple_GET_ITEM(kind, 1));
        count = 5;
    }
    args[0] = number_from(first, edges ? edges[0] : NULL);
    args[1] = number_from(last, edges ? edges[1] : NULL);
    args[2] = PyLong_FromUnsignedLongLong(target);
    if (args[0] && args[1] && args[2])
        made = PyObject_Vectorcall(mapping_type, args, count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_XDECREF(args[0]);
    Py_XDECREF(args[1]);
    Py_XDECREF(args[2]);
    Py_DECREF(args[3]);
    Py_XDECREF(args[4]);
    return made;
}

static PyObject *
chunk_mapping(Chunk *chunk, Py_ssize_t at)
{
    return mapping_of(chunk->firsts[at], lasts_of(chunk)[at], targets_of(chunk)[at], attrs_of(chunk)[at], chunk->kinds,
                      NULL);
}

/* -- pieces ------------------------------------------------------------------ */

typedef struct {
    Chunk *chunk;
    Py_ssize_t before; /* mappings in the parts before */
} Part;

typedef struct {
    PyObject_HEAD
    Py_ssize_t count;
    Py_ssize_t used;
    Part *parts;
} Pieces;

typedef struct {
    PyObject_HEAD
    Pieces *pieces;
    Py_ssize_t part;
    Py_ssize_t at;
} Iterator;

/* Return pieces that have room for some parts. */
static Pieces *
pieces_new(Py_ssize_t room)
{
    Pieces *pieces = PyObject_New(Pieces, pieces_type);

    if (!pieces)
        return NULL;
    pieces->count = pieces->used = 0;
    pieces->parts = PyMem_New(Part, (size_t)(room ? room : 1));
    if (!pieces->parts) {
        Py_DECREF(pieces);
        return (Pieces *)PyErr_NoMemory();
    }
    return pieces;
}

/* Add a part, and take over the hold on its chunk. */
static void
pieces_add(Pieces *pieces, Chunk *chunk)
{
    pieces->parts[pieces->used].chunk = chunk;
    pieces->parts[pieces->used].before = pieces->count;
    pieces->used++;
    pieces->count += chunk->count;
}

static void
pieces_dealloc(Pieces *self)
{
    PyTypeObject *type = Py_TYPE(self);

    for (Py_ssize_t part = 0; part < self->used; part++)
        chunk_drop(self->parts[part].chunk);
    PyMem_Free(self->parts);
    PyObject_Free(self);
    Py_DECREF(type);
}

static Py_ssize_t
pieces_length(Pieces *self)
{
    return self->count;
}

/* Return the mapping at an index, which is inside. */
static PyObject *
pieces_at(Pieces *self, Py_ssize_t index)
{
    Py_ssize_t low = 0, high = self->used - 1;

    while (low < high) {
        Py_ssize_t middle = low + (high - low + 1) / 2;
        if (self->parts[middle].before <= index)
            low = middle;
        else
            high = middle - 1;
    }
    return chunk_mapping(self->parts[low].chunk, index - self->parts[low].before);
}

static PyObject *
pieces_item(Pieces *self, Py_ssize_t index)
{
    if (index < 0 || index >= self->count) {
        PyErr_SetString(PyExc_IndexError, "index out of range");
        return NULL;
    }
    return pieces_at(self, index);
}

static PyObject *
pieces_slice(Pieces *self, PyObject *slice)
{
    Py_ssize_t start, stop, step, count;
    PyObject *found;

    if (PySlice_Unpack(slice, &start, &stop, &step) < 0)
        return NULL;
    count = PySlice_AdjustIndices(self->count, &start, &stop, step);
    found = PyList_New(count);
    for (Py_ssize_t at = 0; found && at < count; at++) {
        PyObject *mapping = pieces_at(self, start + at * step);
        if (!mapping)
            Py_CLEAR(found);
        else
            PyList_SET_ITEM(found, at, mapping);
    }
    return found;
}

static PyObject *
pieces_subscript(Pieces *self, PyObject *key)
{
    Py_ssize_t index;

    if (PySlice_Check(key))
        return pieces_slice(self, key);
    index = PyNumber_AsSsize_t(key, NULL);
    if (index == -1 && PyErr_Occurred())
        return NULL;
    if (index < 0)
        index += self->count;
    if (index < 0 || index >= self->count) {
        PyErr_SetObject(PyExc_IndexError, key);
        return NULL;
    }
    return pieces_at(self, index);
}

static PyObject *
pieces_iter(Pieces *self)
{
    Iterator *iterator = PyObject_New(Iterator, iterator_type);

    if (iterator) {
        iterator->pieces = (Pieces *)Py_NewRef(self);
        iterator->part = iterator->at = 0;
    }
    return (PyObject *)iterator;
}

static PyObject *
pieces_repr(Pieces *self)
{
    return PyUnicode_FromFormat("<%zd pieces>", self->count);
}

static PyObject *
pieces_reduce(Pieces *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *all = PySequence_List((PyObject *)self);

    return all ? Py_BuildValue("O(N)", (PyObject *)&PyTuple_Type, all) : NULL;
}

static void
iterator_dealloc(Iterator *self)
{
    PyTypeObject *type = Py_TYPE(self);

    Py_DECREF(self->pieces);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *
iterator_next(Iterator *self)
{
    while (self->part < self->pieces->used) {
        Chunk *chunk = self->pieces->parts[self->part].chunk;
        if (self->at < chunk->count)
            return chunk_mapping(chunk, self->at++);
        self->part++;
        self->at = 0;
    }
    return NULL;
}

static PyObject *
iterator_hint(Iterator *self, PyObject *Py_UNUSED(ignored))
{
    Py_ssize_t done = self->pieces->count;

    if (self->part < self->pieces->used)
        done = self->pieces->parts[self->part].before + self->at;
    return PyLong_FromSsize_t(self->pieces->count - done);
}

/* -- the table --------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Py_ssize_t most;   /* mappings in one chunk */
    Py_ssize_t count;  /* mappings */
    Py_ssize_t used;   /* chunks */
    Py_ssize_t room;   /* for chunks */
    uint64_t *lows;    /* first address of each chunk */
    Chunk **chunks;    /* none of them empty */
    Py_ssize_t mapping;   /* where the last mapping was inserted: a guest maps at one end of its addresses ... */
    Py_ssize_t unmapping; /* ... and unmaps at the other */
    uint64_t version;  /* goes up with each change */
    PyObject *kinds;   /* list: (perm, memory) by attribute; added to, never changed */
    PyObject *attrs;   /* dict: attribute by (perm, memory), of those that have a memory */
    Py_ssize_t limit;  /* kinds after which those of no mapping are looked for */
    PyObject *memory;  /* what was asked for last, and which attributes it has; 0 if that is not known */
    uint32_t of_memory[PLAIN];
} Table;

/* Have the processor fetch what a search of a chunk will look at, all at once: where there are a million mappings none
 * of it is at hand. */
static inline void
chunk_fetch(Chunk *chunk)
{
#ifdef __GNUC__
    for (size_t at = 0; at < FETCH; at += 64)
        __builtin_prefetch((char *)chunk + at);
#else
    (void)chunk;
#endif
}

/* Return the chunk that takes what begins at an address, of a table that has one; try first where it was last. */
static inline Py_ssize_t
table_find(Table *self, Py_ssize_t hint, uint64_t first)
{
    Py_ssize_t found;

    if (hint < self->used && (hint == 0 || self->lows[hint] <= first)) {
        if (hint + 1 == self->used || first < self->lows[hint + 1])
            return hint;
        if (hint + 2 == self->used || first < self->lows[hint + 2])
            return hint + 1;
    }
    found = count_upto(self->lows, self->used, first);
    found -= found > 0;
    chunk_fetch(self->chunks[found]);
    return found;
}

/* Find the first mapping that ends at or behind an address. */
static void
table_seek(Table *self, uint64_t first, Py_ssize_t *index, Py_ssize_t *at)
{
    Chunk *chunk;

    *index = count_upto(self->lows, self->used, first) - 1;
    *at = 0;
    if (*index < 0) {
        *index = 0;
        return;
    }
    chunk = self->chunks[*index];
    *at = count_below(lasts_of(chunk), chunk->count, first);
    if (*at == chunk->count) {
        ++*index;
        *at = 0;
    }
}

/* Return room for so many mappings, and for some more where that is usual. */
static Py_ssize_t
table_room(Table *self, Py_ssize_t count)
{
    Py_ssize_t room = count < LEAST ? LEAST : count + count / 2;

    return room > self->most && count <= self->most + 1 ? self->most + 1 : room;
}

/* Return a chunk that nobody else holds and that has room; NULL without an error set, and nothing changed, if there is
 * no memory. */
static Chunk *
table_own(Table *self, Py_ssize_t index, Py_ssize_t count)
{
    Chunk *chunk = self->chunks[index], *copy;

    if (chunk->holders == 1 && count <= chunk->room && (count > chunk->room / 4 || chunk->room <= LEAST))
        return chunk;
    copy = chunk_copy(chunk, 0, chunk->count, table_room(self, count > chunk->count ? count : chunk->count));
    if (copy) {
        self->chunks[index] = copy;
        chunk_drop(chunk);
    }
    return copy;
}

/* Make room for one more chunk; -1 without an error set if there is no memory. */
static int
table_reserve(Table *self)
{
    Py_ssize_t room = self->room + self->room / 2 + 4;
    uint64_t *lows;
    Chunk **chunks;

    if (self->used < self->room)
        return 0;
    lows = self->lows;
    PyMem_Resize(lows, uint64_t, (size_t)room);
    if (!lows)
        return -1;
    self->lows = lows;
    chunks = self->chunks;
    PyMem_Resize(chunks, Chunk *, (size_t)room);
    if (!chunks)
        return -1;
    self->chunks = chunks;
    self->room = room;
    return 0;
}

/* Put a chunk where there is room for it. */
static void
table_put_chunk(Table *self, Py_ssize_t index, Chunk *chunk, uint64_t low)
{
    size_t behind = (size_t)(self->used - index);

    memmove(self->chunks + index + 1, self->chunks + index, behind * sizeof(*self->chunks));
    memmove(self->lows + index + 1, self->lows + index, behind * sizeof(*self->lows));
    self->chunks[index] = chunk;
    self->lows[index] = low;
    self->used++;
}

/* Forget where the chunks `start` to `stop` (exclusive) are; who calls lets go of them. */
static void
table_take_chunks(Table *self, Py_ssize_t start, Py_ssize_t stop)
{
    size_t behind = (size_t)(self->used - stop);

    memmove(self->chunks + start, self->chunks + stop, behind * sizeof(*self->chunks));
    memmove(self->lows + start, self->lows + stop, behind * sizeof(*self->lows));
    self->used -= stop - start;
    if (self->room > 64 && self->used < self->room / 4) { /* if there is no memory to have less, no harm is done */
        Py_ssize_t room = self->used + self->used / 2 + 4;
        uint64_t *lows = PyMem_Realloc(self->lows, (size_t)room * sizeof(*lows));
        Chunk **chunks;
        if (lows)
            self->lows = lows;
        chunks = PyMem_Realloc(self->chunks, (size_t)room * sizeof(*chunks));
        if (chunks)
            self->chunks = chunks;
        self->room = room;
    }
}

/* Join a sparse chunk with a neighbour, if both fit in half a chunk; and if there is memory for it. */
static void
table_merge(Table *self, Py_ssize_t index)
{
    Py_ssize_t left = index + 1 < self->used ? index : index - 1;
    Chunk *lower = self->chunks[left], *upper = self->chunks[left + 1];
    Py_ssize_t together = lower->count + upper->count;

    if (together > self->most / 2 || !(lower = table_own(self, left, together)))
        return;
    chunk_append(lower, upper, 0, upper->count);
    table_take_chunks(self, left + 1, left + 2);
    chunk_drop(upper);
}

static int
table_init_kinds(Table *self)
{
    self->kinds = PyList_New(PLAIN);
    self->attrs = PyDict_New();
    for (Py_ssize_t bits = 0; self->kinds && bits < PLAIN; bits++) {
        PyObject *kind = PyTuple_Pack(2, perms[bits], Py_None);
        if (!kind)
            return -1;
        PyList_SET_ITEM(self->kinds, bits, kind);
    }
    return self->kinds && self->attrs ? 0 : -1;
}

static PyObject *
table_new(PyTypeObject *type, PyObject *args, PyObject *words)
{
    static char *names[] = {"chunk", "stay", "kinds", NULL};
    Py_ssize_t chunk = CHUNK, stay = STAY, kinds = KINDS;
    Table *self;

    if (!PyArg_ParseTupleAndKeywords(args, words, "|nnn:Table", names, &chunk, &stay, &kinds))
        return NULL;
    if (chunk < 1 || chunk > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "a chunk takes at least one mapping, got %zd", chunk);
        return NULL;
    }
    self = (Table *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->most = chunk;
    self->limit = kinds;
    if (table_init_kinds(self) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void
table_dealloc(Table *self)
{
    PyTypeObject *type = Py_TYPE(self);

    for (Py_ssize_t index = 0; index < self->used; index++)
        chunk_drop(self->chunks[index]);
    PyMem_Free(self->chunks);
    PyMem_Free(self->lows);
    Py_XDECREF(self->kinds);
    Py_XDECREF(self->attrs);
    Py_XDECREF(self->memory);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static Py_ssize_t
table_length(Table *self)
{
    return self->count;
}

/* -- kinds ------------------------------------------------------------------- */

/* Return which attributes there are in the table, a byte for each kind. */
static char *
table_present(Table *self, Py_ssize_t kinds)
{
    char *present = PyMem_Calloc((size_t)kinds, 1);

    if (!present)
        return (char *)PyErr_NoMemory();
    memset(present, 1, PLAIN);
    for (Py_ssize_t index = 0; index < self->used; index++) {
        uint32_t *attrs = attrs_of(self->chunks[index]);
        for (Py_ssize_t at = 0; at < self->chunks[index]->count; at++)
            present[attrs[at]] = 1;
    }
    return present;
}

/* Fill a list and a dict with the kinds that are present, and `numbers` with the new attribute of each. */
static int
kinds_keep(PyObject *old, const char *present, Py_ssize_t count, PyObject *kinds, PyObject *attrs, uint32_t *numbers)
{
    for (Py_ssize_t attr = 0; attr < count; attr++) {
        PyObject *kind = PyList_GET_ITEM(old, attr), *number;
        int done;
        if (!present[attr])
            continue;
        numbers[attr] = (uint32_t)PyList_GET_SIZE(kinds);
        if (PyList_Append(kinds, kind) < 0)
            return -1;
        if (attr < PLAIN)
            continue;
        number = PyLong_FromUnsignedLong(numbers[attr]);
        if (!number)
            return -1;
        done = PyDict_SetItem(attrs, kind, number);
        Py_DECREF(number);
        if (done < 0)
            return -1;
    }
    return 0;
}

/* Give every chunk its new attributes; none, if there is not the memory for it. */
static int
table_renumber(Table *self, PyObject *kinds, const uint32_t *numbers)
{
    for (Py_ssize_t index = 0; index < self->used; index++)
        if (!table_own(self, index, self->chunks[index]->count)) {
            PyErr_NoMemory();
            return -1;
        }
    for (Py_ssize_t index = 0; index < self->used; index++) {
        Chunk *chunk = self->chunks[index];
        uint32_t *attrs = attrs_of(chunk);
        for (Py_ssize_t at = 0; at < chunk->count; at++)
            attrs[at] = numbers[attrs[at]];
        Py_SETREF(chunk->kinds, Py_NewRef(kinds));
    }
    return 0;
}

/* Keep the kinds of present mappings alone: memories come and go, and a table outlives many. */
static int
table_forget(Table *self)
{
    PyObject *kinds = PyList_New(0), *attrs = PyDict_New(), *old = Py_NewRef(self->kinds);
    Py_ssize_t count = PyList_GET_SIZE(old);
    uint32_t *numbers = PyMem_Calloc((size_t)count, sizeof(*numbers));
    char *present = table_present(self, count);
    uint64_t version = self->version;
    int done = -1;

    if (!numbers)
        PyErr_NoMemory();
    else if (kinds && attrs && present && kinds_keep(old, present, count, kinds, attrs, numbers) == 0) {
        if (version != self->version || old != self->kinds)
            done = 0; /* somebody came in between; the next time, then */
        else if (table_renumber(self, kinds, numbers) == 0) {
            Py_SETREF(self->kinds, Py_NewRef(kinds));
            Py_SETREF(self->attrs, Py_NewRef(attrs));
            memset(self->of_memory, 0, sizeof(self->of_memory));
            if (self->limit < 2 * PyList_GET_SIZE(kinds))
                self->limit = 2 * PyList_GET_SIZE(kinds);
            self->version++;
            done = 0;
        }
    }
    PyMem_Free(present);
    PyMem_Free(numbers);
    Py_DECREF(old);
    Py_XDECREF(kinds);
    Py_XDECREF(attrs);
    return done;
}

/* Add a kind, and return its attribute; 0 with an error set if there is no memory. */
static uint32_t
table_add_kind(Table *self, PyObject *kind)
{
    Py_ssize_t attr = PyList_GET_SIZE(self->kinds);
    PyObject *number = PyLong_FromSsize_t(attr);
    int done;

    if (!number)
        return 0;
    done = PyList_Append(self->kinds, kind);
    if (done == 0 && PyDict_SetItem(self->attrs, kind, number) < 0) {
        done = -1;
        (void)PyList_SetSlice(self->kinds, attr, attr + 1, NULL);
    }
    Py_DECREF(number);
    return done < 0 ? 0 : (uint32_t)attr;
}

/* Find the attribute of mappings into a memory. */
static int
table_memory_attr(Table *self, long perm, PyObject *memory, uint32_t *attr)
{
    PyObject *kind, *number;

    if (!PyObject_TypeCheck(memory, (PyTypeObject *)memory_type)) {
        PyErr_Format(PyExc_TypeError, "a target leads into a Memory or None, got %R", memory);
        return -1;
    }
    if (PyList_GET_SIZE(self->kinds) >= self->limit && table_forget(self) < 0)
        return -1;
    if (memory == self->memory && self->of_memory[perm]) {
        *attr = self->of_memory[perm];
        return 0;
    }
    kind = PyTuple_Pack(2, perms[perm], memory);
    if (!kind)
        return -1;
    number = PyDict_GetItemWithError(self->attrs, kind);
    *attr = number ? (uint32_t)PyLong_AsUnsignedLong(number) : PyErr_Occurred() ? 0 : table_add_kind(self, kind);
    Py_DECREF(kind);
    if (!*attr)
        return -1;
    if (memory != self->memory) {
        memset(self->of_memory, 0, sizeof(self->of_memory));
        Py_XSETREF(self->memory, Py_NewRef(memory));
    }
    self->of_memory[perm] = *attr;
    return 0;
}

static inline int
table_attr(Table *self, long perm, PyObject *memory, uint32_t *attr)
{
    if (memory && memory != Py_None)
        return table_memory_attr(self, perm, memory, attr);
    *attr = (uint32_t)perm;
    return 0;
}

/* -- inserting --------------------------------------------------------------- */

static void
refuse(PyObject *error, uint64_t first, uint64_t last, uint64_t held_first, uint64_t held_last)
{
    PyObject *made = PyObject_CallFunction(error, "KKKK", (unsigned long long)first, (unsigned long long)last,
                                           (unsigned long long)held_first, (unsigned long long)held_last);
    if (made) {
        PyErr_SetObject(error, made);
        Py_DECREF(made);
    }
}

/* Say what is in the way: 0 if it is the very same mapping, else -1 with the error set. */
static int
table_refuse(Table *self, uint64_t first, uint64_t last, uint64_t target, uint32_t attr)
{
    Py_ssize_t index, at;
    Chunk *chunk;

    table_seek(self, first, &index, &at);
    chunk = self->chunks[index];
    if (chunk->firsts[at] == first && lasts_of(chunk)[at] == last && targets_of(chunk)[at] == target
        && attrs_of(chunk)[at] == attr)
        return 0;
    refuse(overlap_error, first, last, chunk->firsts[at], lasts_of(chunk)[at]);
    return -1;
}

/* Add the first chunk. */
static int
table_open(Table *self, uint64_t first, uint64_t last, uint64_t target, uint32_t attr)
{
    Chunk *chunk = table_reserve(self) < 0 ? NULL : chunk_new(table_room(self, 1), self->kinds);

    if (!chunk) {
        PyErr_NoMemory();
        return -1;
    }
    chunk_put(chunk, 0, first, last, target, attr);
    table_put_chunk(self, 0, chunk, first);
    self->count++;
    self->version++;
    return 1;
}

/* Return how many stay in a full chunk after one was inserted at `at`: half of them, and more where the whole table
 * grows at an end. */
static Py_ssize_t
table_half(Table *self, Py_ssize_t index, Py_ssize_t count, Py_ssize_t at)
{
    Py_ssize_t half = count / 2;

    if (at == count - 1 && index == self->used - 1)
        return half + half / 2;
    return at == 0 && index == 0 ? half - half / 2 : half;
}

/* Insert a mapping: 1 if it is new, 0 if it was there, -1 with an error set. */
static int
table_insert(Table *self, uint64_t first, uint64_t last, uint64_t target, uint32_t attr)
{
    Py_ssize_t index, at, half = 0;
    Chunk *chunk, *upper = NULL;

    if (!self->used)
        return table_open(self, first, last, target, attr);
    index = self->mapping = table_find(self, self->mapping, first);
    if (index + 1 < self->used && last >= self->lows[index + 1])
        return table_refuse(self, first, last, target, attr);
    chunk = self->chunks[index];
    at = count_upto(chunk->firsts, chunk->count, last);
    if (at && lasts_of(chunk)[at - 1] >= first)
        return table_refuse(self, first, last, target, attr);
    if (chunk->count >= self->most) { /* all that can fail comes first */
        half = table_half(self, index, chunk->count + 1, at);
        if (table_reserve(self) < 0
            || !(upper = chunk_new(table_room(self, chunk->count + 1 - half), self->kinds)))
            goto no_memory;
    }
    if (!(chunk = table_own(self, index, chunk->count + 1)))
        goto no_memory;
    chunk_put(chunk, at, first, last, target, attr);
    if (!at)
        self->lows[index] = first;
    if (upper) {
        chunk_append(upper, chunk, half, chunk->count);
        chunk->count = half;
        table_put_chunk(self, index + 1, upper, upper->firsts[0]);
    }
    self->count++;
    self->version++;
    return 1;

no_memory:
    chunk_drop(upper);
    PyErr_NoMemory();
    return -1;
}

static PyObject *
table_method_insert(Table *self, PyObject *const *given, Py_ssize_t count, PyObject *words)
{
    static const char *const names[] = {"first", "last", "target", "perm", "memory"};
    PyObject *args[5];
    uint64_t first, last, target;
    uint32_t attr;
    long perm;
    int done;

    if (gather(given, count, words, names, 4, 5, args) < 0 || range_of(args, &first, &last) < 0
        || number_of(args[2], &target) < 0 || perm_of(args[3], &perm) < 0
        || table_attr(self, perm, args[4], &attr) < 0)
        return NULL;
    done = table_insert(self, first, last, target, attr);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

/* -- removing ---------------------------------------------------------------- */

/* Hold in `pieces` what is going to be cut out of one chunk; 0 if there is no memory. */
static int
hold_part(Pieces *pieces, Chunk *chunk, Py_ssize_t start, Py_ssize_t stop)
{
    if (start == 0 && stop == chunk->count)
        chunk->holders++;
    else if (!(chunk = chunk_copy(chunk, start, stop, stop - start)))
        return 0;
    pieces_add(pieces, chunk);
    return 1;
}

/* Hold the mappings from `low` of chunk `start` up to `high` (exclusive) of `stop`; NULL with an error set. */
static Pieces *
table_hold(Table *self, Py_ssize_t start, Py_ssize_t low, Py_ssize_t stop, Py_ssize_t high)
{
    Pieces *pieces = pieces_new(stop - start + 1);

    for (Py_ssize_t index = start; pieces && index <= stop; index++) {
        Chunk *chunk = self->chunks[index];
        Py_ssize_t from = index == start ? low : 0, to = index == stop ? high : chunk->count;
        if (from < to && !hold_part(pieces, chunk, from, to)) {
            PyErr_NoMemory();
            Py_CLEAR(pieces);
        }
    }
    return pieces;
}

/* Cut out from `low` of chunk `start` up to `high` (exclusive) of `stop`; -1 with an error set, and nothing changed. */
static int
table_take_out(Table *self, Py_ssize_t start, Py_ssize_t low, Py_ssize_t stop, Py_ssize_t high)
{
    Chunk *head = self->chunks[start], *tail = self->chunks[stop];
    int keeps_head = low > 0, keeps_tail = high < tail->count;

    if (start == stop) {
        keeps_tail = 0;
        keeps_head = high - low < head->count;
    }
    if ((keeps_head && !(head = table_own(self, start, head->count)))
        || (keeps_tail && !(tail = table_own(self, stop, tail->count)))) {
        PyErr_NoMemory();
        return -1;
    }
    if (keeps_head) {
        chunk_take(head, low, start == stop ? high : head->count);
        self->lows[start] = head->firsts[0];
    }
    if (keeps_tail) {
        chunk_take(tail, 0, high);
        self->lows[stop] = tail->firsts[0];
    }
    start += keeps_head;
    stop += !keeps_tail;
    if (start < stop) {
        for (Py_ssize_t index = start; index < stop; index++)
            self->chunks[index]->holders--; /* the pieces hold it, too */
        table_take_chunks(self, start, stop);
    }
    return keeps_head || keeps_tail;
}

/* Remove a range; NULL with an error set if a mapping reaches out of it, and then nothing changed. */
static PyObject *
table_remove_range(Table *self, uint64_t first, uint64_t last)
{
    Py_ssize_t start, low, stop, high;
    Chunk *head, *tail;
    Pieces *removed;
    int kept;

    table_seek(self, first, &start, &low);
    stop = count_upto(self->lows, self->used, last) - 1;
    if (stop < start)
        return PyTuple_New(0);
    head = self->chunks[start];
    tail = self->chunks[stop];
    high = count_upto(tail->firsts, tail->count, last);
    if (head->firsts[low] < first) {
        refuse(straddle_error, first, last, head->firsts[low], lasts_of(head)[low]);
        return NULL;
    }
    if (high && lasts_of(tail)[high - 1] > last) {
        refuse(straddle_error, first, last, tail->firsts[high - 1], lasts_of(tail)[high - 1]);
        return NULL;
    }
    removed = table_hold(self, start, low, stop, high);
    if (!removed)
        return NULL;
    kept = removed->count ? table_take_out(self, start, low, stop, high) : 1;
    if (kept < 0) {
        Py_DECREF(removed);
        return NULL;
    }
    self->count -= removed->count;
    self->version++;
    if (kept && self->chunks[start]->count < self->most / 8 && self->used > 1)
        table_merge(self, start);
    return (PyObject *)removed;
}

/* Take out one mapping; -1 with an error set, and nothing changed. */
static int
table_remove_one(Table *self, Py_ssize_t index, Py_ssize_t at)
{
    Chunk *chunk = self->chunks[index];

    if (chunk->count == 1) { /* a guest with one buffer does so all the time */
        table_take_chunks(self, index, index + 1);
        chunk_drop(chunk);
    }
    else {
        chunk = table_own(self, index, chunk->count);
        if (!chunk) {
            PyErr_NoMemory();
            return -1;
        }
        chunk_take(chunk, at, at + 1);
        if (!at)
            self->lows[index] = chunk->firsts[0];
        if (chunk->count < self->most / 8 && self->used > 1)
            table_merge(self, index);
    }
    self->count--;
    self->version++;
    return 0;
}

/* Find the mapping that has exactly this range: 1 if there is one. */
static inline int
table_exact(Table *self, uint64_t first, uint64_t last, Py_ssize_t *index, Py_ssize_t *at)
{
    Chunk *chunk;

    if (!self->used)
        return 0;
    *index = self->unmapping = table_find(self, self->unmapping, first);
    chunk = self->chunks[*index];
    *at = count_upto(chunk->firsts, chunk->count, first) - 1;
    return *at >= 0 && chunk->firsts[*at] == first && lasts_of(chunk)[*at] == last;
}

/* Remove every mapping in a range, and return them in order; `edges` are its numbers as Python has them, or NULL. */
static PyObject *
table_remove(Table *self, uint64_t first, uint64_t last, PyObject *const *edges)
{
    PyObject *removed = PyTuple_New(1), *mapping;
    Py_ssize_t index, at;
    uint64_t version;
    Chunk *chunk;

    if (!removed)
        return NULL;
    while (table_exact(self, first, last, &index, &at)) {
        version = self->version;
        chunk = self->chunks[index];
        mapping = mapping_of(first, last, targets_of(chunk)[at], attrs_of(chunk)[at], chunk->kinds, edges);
        if (mapping && version != self->version) {
            Py_DECREF(mapping);
            continue;
        }
        if (!mapping || table_remove_one(self, index, at) < 0) {
            Py_XDECREF(mapping);
            Py_DECREF(removed);
            return NULL;
        }
        PyTuple_SET_ITEM(removed, 0, mapping);
        return removed;
    }
    Py_DECREF(removed);
    return self->used ? table_remove_range(self, first, last) : PyTuple_New(0);
}

static PyObject *
table_method_remove(Table *self, PyObject *const *given, Py_ssize_t count, PyObject *words)
{
    static const char *const names[] = {"first", "last"};
    PyObject *args[2];
    uint64_t first, last;

    if (gather(given, count, words, names, 2, 2, args) < 0 || range_of(args, &first, &last) < 0)
        return NULL;
    return table_remove(self, first, last, args);
}

/* -- cutting ----------------------------------------------------------------- */

/* Find the mapping that contains an address: 1 if there is one. */
static int
table_at(Table *self, uint64_t iova, Chunk **chunk, Py_ssize_t *at)
{
    Py_ssize_t index = count_upto(self->lows, self->used, iova) - 1;

    if (index < 0)
        return 0;
    *chunk = self->chunks[index];
    *at = count_upto((*chunk)->firsts, (*chunk)->count, iova) - 1;
    return lasts_of(*chunk)[*at] >= iova;
}

/* A mapping that a cut leaves. */
typedef struct {
    uint64_t first, last, target;
    uint32_t attr;
    PyObject *memory; /* NULL if there is none */
    long perm;
} Survivor;

/* Note the part of a mapping from `first` to `last`. */
static void
survive(Survivor *survivor, Chunk *chunk, Py_ssize_t at, uint64_t first, uint64_t last)
{
    PyObject *kind;

    survivor->first = first;
    survivor->last = last;
    survivor->target = targets_of(chunk)[at] + (first - chunk->firsts[at]);
    survivor->attr = attrs_of(chunk)[at];
    kind = PyList_GET_ITEM(chunk->kinds, (Py_ssize_t)survivor->attr);
    survivor->memory = survivor->attr < PLAIN ? NULL : Py_NewRef(PyTuple_GET_ITEM(kind, 1));
    survivor->perm = PyLong_AsLong(PyTuple_GET_ITEM(kind, 0));
}

/* Remove a range that cuts nothing any more, and put back what survives of it; NULL with an error set. */
static PyObject *
table_replace(Table *self, uint64_t low, uint64_t high, Survivor *survivors, Py_ssize_t count)
{
    PyObject *kept = PyList_New(0), *removed, *done = NULL;

    removed = kept ? table_remove_range(self, low, high) : NULL;
    for (Py_ssize_t at = 0; removed && at < count; at++) {
        Survivor *one = &survivors[at];
        PyObject *mapping = NULL;
        uint32_t attr;
        if (table_attr(self, one->perm, one->memory, &attr) == 0
            && table_insert(self, one->first, one->last, one->target, attr) >= 0)
            mapping = mapping_of(one->first, one->last, one->target, attr, self->kinds, NULL);
        if (!mapping || PyList_Append(kept, mapping) < 0)
            Py_CLEAR(removed);
        Py_XDECREF(mapping);
    }
    if (removed)
        done = PyObject_CallFunction(cut_type, "KKOO", (unsigned long long)low, (unsigned long long)high, removed,
                                     kept);
    Py_XDECREF(removed);
    Py_XDECREF(kept);
    return done;
}

static PyObject *
table_method_cut(Table *self, PyObject *const *given, Py_ssize_t number, PyObject *words)
{
    static const char *const names[] = {"first", "last"};
    PyObject *args[2], *done;
    uint64_t first, last, low, high;
    Survivor survivors[2];
    Py_ssize_t at, count = 0;
    Chunk *chunk;

    if (gather(given, number, words, names, 2, 2, args) < 0 || range_of(args, &first, &last) < 0)
        return NULL;
    low = first;
    high = last;
    if (table_at(self, first, &chunk, &at) && (low = chunk->firsts[at]) < first)
        survive(&survivors[count++], chunk, at, low, first - 1);
    if (table_at(self, last, &chunk, &at) && (high = lasts_of(chunk)[at]) > last)
        survive(&survivors[count++], chunk, at, last + 1, high);
    done = table_replace(self, low, high, survivors, count);
    for (at = 0; at < count; at++)
        Py_XDECREF(survivors[at].memory);
    return done;
}

/* -- reading ----------------------------------------------------------------- */

static PyObject *
table_method_lookup(Table *self, PyObject *const *given, Py_ssize_t count, PyObject *words)
{
    static const char *const names[] = {"iova"};
    PyObject *args[1];
    uint64_t iova;
    Py_ssize_t at;
    Chunk *chunk;
    int where;

    if (gather(given, count, words, names, 1, 1, args) < 0 || (where = place_of(args[0], &iova)) < 0)
        return NULL;
    if (where || !table_at(self, iova, &chunk, &at))
        Py_RETURN_NONE;
    return chunk_mapping(chunk, at);
}

/* Append to a list the first `limit` mappings that overlap a range. */
static int
table_collect(Table *self, uint64_t first, uint64_t last, Py_ssize_t limit, PyObject *found)
{
    Py_ssize_t index, at;
    uint64_t version = self->version;

    table_seek(self, first, &index, &at);
    for (; index < self->used; index++, at = 0) {
        Chunk *chunk = self->chunks[index];
        Py_ssize_t stop = count_upto(chunk->firsts, chunk->count, last), whole = chunk->count;
        for (; at < stop && limit > 0; at++, limit--) {
            PyObject *mapping = chunk_mapping(chunk, at);
            int done = mapping ? PyList_Append(found, mapping) : -1;
            Py_XDECREF(mapping);
            if (done < 0)
                return -1;
            if (version != self->version) {
                PyErr_SetString(PyExc_RuntimeError, "the table changed while it was read");
                return -1;
            }
        }
        if (at < whole)
            break;
    }
    return 0;
}

static PyObject *
table_method_walk(Table *self, PyObject *const *given, Py_ssize_t count, PyObject *words)
{
    static const char *const names[] = {"first", "last", "limit"};
    PyObject *args[3], *found;
    uint64_t first, last;
    Py_ssize_t limit;
    int low, high;

    if (gather(given, count, words, names, 3, 3, args) < 0 || (low = place_of(args[0], &first)) < 0
        || (high = place_of(args[1], &last)) < 0)
        return NULL;
    limit = PyNumber_AsSsize_t(args[2], NULL);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    found = PyList_New(0);
    if (!found || low == 2 || high == 1 || limit <= 0)
        return found;
    if (table_collect(self, low ? 0 : first, high ? UINT64_MAX : last, limit, found) < 0)
        Py_CLEAR(found);
    return found;
}

/* Return the chunks up to `limit` mappings and some more, as they are now. */
static Pieces *
table_copy(Table *self, Py_ssize_t limit)
{
    Py_ssize_t chunks = 0, mappings = 0;
    Pieces *pieces;

    while (chunks < self->used && mappings < limit)
        mappings += self->chunks[chunks++]->count;
    pieces = pieces_new(chunks);
    for (Py_ssize_t index = 0; pieces && index < chunks; index++) {
        self->chunks[index]->holders++;
        pieces_add(pieces, self->chunks[index]);
    }
    return pieces;
}

static PyObject *
table_method_snapshot(Table *self, PyObject *const *given, Py_ssize_t count, PyObject *words)
{
    static const char *const names[] = {"limit"};
    PyObject *args[1];
    Pieces *pieces;
    Chunk *last;
    Py_ssize_t limit;

    if (gather(given, count, words, names, 1, 1, args) < 0)
        return NULL;
    limit = PyNumber_AsSsize_t(args[0], NULL);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    pieces = table_copy(self, limit);
    if (!pieces)
        return NULL;
    if (pieces->used == self->used)
        return Py_BuildValue("NO", pieces, Py_None);
    last = self->chunks[self->used - 1];
    return Py_BuildValue("N(KK)", pieces, (unsigned long long)self->lows[pieces->used],
                         (unsigned long long)lasts_of(last)[last->count - 1]);
}

static PyObject *
table_iter(Table *self)
{
    Pieces *pieces = table_copy(self, PY_SSIZE_T_MAX);
    PyObject *iterator = pieces ? pieces_iter(pieces) : NULL;

    Py_XDECREF(pieces);
    return iterator;
}

/* Find the first mapping of an attribute: 1 if there is one. */
static int
table_having(Table *self, uint32_t attr, Chunk **chunk, Py_ssize_t *at)
{
    for (Py_ssize_t index = 0; index < self->used; index++) {
        uint32_t *attrs;
        *chunk = self->chunks[index];
        attrs = attrs_of(*chunk);
        for (*at = 0; *at < (*chunk)->count; ++*at)
            if (attrs[*at] == attr)
                return 1;
    }
    return 0;
}

static PyObject *
table_method_leading_to(Table *self, PyObject *const *given, Py_ssize_t count, PyObject *words)
{
    static const char *const names[] = {"memory"};
    PyObject *args[1], *kinds;
    Chunk *chunk;
    Py_ssize_t at;

    if (gather(given, count, words, names, 1, 1, args) < 0)
        return NULL;
    kinds = Py_NewRef(self->kinds);
    for (Py_ssize_t attr = PLAIN; attr < PyList_GET_SIZE(kinds) && kinds == self->kinds; attr++) {
        PyObject *held = Py_NewRef(PyTuple_GET_ITEM(PyList_GET_ITEM(kinds, attr), 1));
        int same = PyObject_RichCompareBool(held, args[0], Py_EQ);
        Py_DECREF(held);
        if (same < 0 || (same && table_having(self, (uint32_t)attr, &chunk, &at))) {
            Py_DECREF(kinds);
            return same < 0 ? NULL : chunk_mapping(chunk, at);
        }
    }
    Py_DECREF(kinds);
    Py_RETURN_NONE;
}

/* -- being copied and sent to another process ---------------------------------- */

static PyObject *
table_method_getstate(Table *self, PyObject *Py_UNUSED(ignored))
{
    Pieces *pieces = table_copy(self, PY_SSIZE_T_MAX);
    PyObject *groups = pieces ? PyTuple_New(pieces->used) : NULL;

    for (Py_ssize_t part = 0; groups && part < pieces->used; part++) {
        Chunk *chunk = pieces->parts[part].chunk;
        PyObject *group = PyTuple_New(chunk->count);
        for (Py_ssize_t at = 0; group && at < chunk->count; at++) {
            PyObject *mapping = chunk_mapping(chunk, at);
            if (mapping)
                PyTuple_SET_ITEM(group, at, mapping);
            else
                Py_CLEAR(group);
        }
        if (group)
            PyTuple_SET_ITEM(groups, part, group);
        else
            Py_CLEAR(groups);
    }
    Py_XDECREF(pieces);
    return groups;
}

/* Append a mapping behind all others, in a chunk of its own if it begins one. */
static int
table_append(Table *self, PyObject *mapping, int begins)
{
    static const char *const names[] = {"first", "last", "target", "perm", "memory"};
    PyObject *fields[5] = {NULL};
    uint64_t first, last, target;
    uint32_t attr;
    long perm;
    Chunk *chunk;
    int field, done = -1;

    for (field = 0; field < 5 && (fields[field] = PyObject_GetAttrString(mapping, names[field])); field++)
        ;
    if (field < 5 || range_of(fields, &first, &last) < 0 || number_of(fields[2], &target) < 0
        || perm_of(fields[3], &perm) < 0 || table_attr(self, perm, fields[4], &attr) < 0)
        goto out;
    chunk = self->used ? self->chunks[self->used - 1] : NULL;
    if (chunk ? lasts_of(chunk)[chunk->count - 1] >= first || (!begins && chunk->count >= self->most) : !begins) {
        PyErr_SetString(PyExc_ValueError, "the mappings are not in order, or too many in a chunk");
        goto out;
    }
    if (begins) {
        chunk = table_reserve(self) < 0 ? NULL : chunk_new(table_room(self, 1), self->kinds);
        if (chunk)
            table_put_chunk(self, self->used, chunk, first);
    }
    else
        chunk = table_own(self, self->used - 1, chunk->count + 1);
    if (!chunk) {
        PyErr_NoMemory();
        goto out;
    }
    chunk_put(chunk, chunk->count, first, last, target, attr);
    self->count++;
    self->version++;
    done = 0;
out:
    for (field = 0; field < 5; field++)
        Py_XDECREF(fields[field]);
    return done;
}

/* Append a chunk that has these mappings. */
static int
table_append_group(Table *self, PyObject *group)
{
    PyObject *mappings = PySequence_Tuple(group);
    int done = mappings ? 0 : -1;

    for (Py_ssize_t at = 0; done == 0 && at < PyTuple_GET_SIZE(mappings); at++)
        done = table_append(self, PyTuple_GET_ITEM(mappings, at), at == 0);
    Py_XDECREF(mappings);
    return done;
}

static PyObject *
table_method_setstate(Table *self, PyObject *state)
{
    PyObject *groups;

    if (self->used) {
        PyErr_SetString(PyExc_ValueError, "the table is not empty");
        return NULL;
    }
    groups = PySequence_Tuple(state);
    for (Py_ssize_t at = 0; groups && at < PyTuple_GET_SIZE(groups); at++)
        if (table_append_group(self, PyTuple_GET_ITEM(groups, at)) < 0)
            Py_CLEAR(groups);
    if (!groups)
        return NULL;
    Py_DECREF(groups);
    Py_RETURN_NONE;
}

static PyObject *
table_method_reduce(Table *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *state = table_method_getstate(self, NULL);

    if (!state)
        return NULL;
    return Py_BuildValue("O(nnn)N", (PyObject *)Py_TYPE(self), self->most, (Py_ssize_t)STAY, self->limit, state);
}

/* -- what Python sees -------------------------------------------------------- */

#define METHOD(name, function, flags, text) {name, (PyCFunction)(void (*)(void))(function), (flags), PyDoc_STR(text)}
#define QUICK (METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef table_methods[] = {
    METHOD("insert", table_method_insert, QUICK,
           "insert($self, first, last, target, perm, memory=None)\n--\n\n"
           "Add a mapping; return False if this very mapping was there already."),
    METHOD("remove", table_method_remove, QUICK,
           "remove($self, first, last)\n--\n\nRemove every mapping in the range, and return them in order."),
    METHOD("cut", table_method_cut, QUICK,
           "cut($self, first, last)\n--\n\nRemove the range, and put back what reaches out of it."),
    METHOD("lookup", table_method_lookup, QUICK,
           "lookup($self, iova)\n--\n\nReturn the mapping that contains the address, if there is one."),
    METHOD("walk", table_method_walk, QUICK,
           "walk($self, first, last, limit)\n--\n\nReturn the first mappings that overlap the range, whole."),
    METHOD("snapshot", table_method_snapshot, QUICK,
           "snapshot($self, limit)\n--\n\nReturn some mappings as they are now, and where there are more."),
    METHOD("leading_to", table_method_leading_to, QUICK,
           "leading_to($self, memory)\n--\n\nReturn a mapping that leads into the memory, if there is one."),
    METHOD("__getstate__", table_method_getstate, METH_NOARGS, "Return the mappings as they are divided into chunks."),
    METHOD("__setstate__", table_method_setstate, METH_O, "Take mappings that are divided into chunks."),
    METHOD("__reduce__", table_method_reduce, METH_NOARGS, "Return how to make an equal table."),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Disjoint mappings in order of address.")},
    {Py_tp_new, table_new},
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_iter, table_iter},
    {Py_tp_methods, table_methods},
    {Py_mp_length, table_length},
    {0, NULL},
};

static PyType_Spec table_spec = {
    .name = "iommubus.compiled.table.Table",
    .basicsize = sizeof(Table),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = table_slots,
};

static PyMethodDef pieces_methods[] = {
    METHOD("__reduce__", pieces_reduce, METH_NOARGS, "Return how to make a tuple of the same mappings."),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pieces_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Mappings that were cut out of a table; each is made when looked at.")},
    {Py_tp_dealloc, pieces_dealloc},
    {Py_tp_iter, pieces_iter},
    {Py_tp_repr, pieces_repr},
    {Py_tp_methods, pieces_methods},
    {Py_sq_length, pieces_length},
    {Py_sq_item, pieces_item},
    {Py_mp_length, pieces_length},
    {Py_mp_subscript, pieces_subscript},
    {0, NULL},
};

static PyType_Spec pieces_spec = {
    .name = "iommubus.compiled.table.Pieces",
    .basicsize = sizeof(Pieces),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = pieces_slots,
};

static PyMethodDef iterator_methods[] = {
    METHOD("__length_hint__", iterator_hint, METH_NOARGS, "Return how many are left."),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot iterator_slots[] = {
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iterator_next},
    {Py_tp_methods, iterator_methods},
    {0, NULL},
};

static PyType_Spec iterator_spec = {
    .name = "iommubus.compiled.table.PiecesIterator",
    .basicsize = sizeof(Iterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = iterator_slots,
};

/* Return an attribute of a module. */
static PyObject *
borrowed_from(const char *name, const char *attribute)
{
    PyObject *found = NULL, *imported = PyImport_ImportModule(name);

    if (imported)
        found = PyObject_GetAttrString(imported, attribute);
    Py_XDECREF(imported);
    return found;
}

#include "plain.h"

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "iommubus.compiled.table",
    .m_doc = PyDoc_STR("The table of one space, compiled: what `iommubus.table.PureTable` is, quicker."),
    .m_size = -1,
};

static int
load_words(void)
{
    PyObject *all = NULL;
    int done = -1;

    if (!(overlap_error = borrowed_from("iommubus.errors", "Overlap"))
        || !(straddle_error = borrowed_from("iommubus.errors", "Straddle"))
        || !(memory_type = borrowed_from("iommubus.events", "Memory"))
        || !(mapping_type = borrowed_from("iommubus.mapping", "Mapping"))
        || !(cut_type = borrowed_from("iommubus.chunks", "Cut"))
        || !(all = borrowed_from("iommubus.mapping", "PERMS")))
        return -1;
    if (!PyType_Check(memory_type) || !PyTuple_Check(all) || PyTuple_GET_SIZE(all) != PLAIN)
        PyErr_SetString(PyExc_ImportError, "iommubus is not what this was compiled for");
    else {
        for (Py_ssize_t bits = 0; bits < PLAIN; bits++)
            perms[bits] = Py_NewRef(PyTuple_GET_ITEM(all, bits));
        done = 0;
    }
    Py_DECREF(all);
    return done;
}

/* Let pieces be a sequence: what Python wrote for all of them serves these, too. */
static int
make_sequence(void)
{
    static const char *const names[] = {"index", "count"};
    PyObject *sequence = borrowed_from("collections.abc", "Sequence"), *registered = NULL;
    int done = sequence ? 0 : -1;

    for (size_t at = 0; done == 0 && at < sizeof(names) / sizeof(*names); at++) {
        PyObject *method = PyObject_GetAttrString(sequence, names[at]);
        done = method ? PyObject_SetAttrString((PyObject *)pieces_type, names[at], method) : -1;
        Py_XDECREF(method);
    }
    if (done == 0)
        registered = PyObject_CallMethod(sequence, "register", "O", (PyObject *)pieces_type);
    Py_XDECREF(sequence);
    Py_XDECREF(registered);
    return registered ? 0 : -1;
}

PyMODINIT_FUNC
PyInit_table(void)
{
    PyObject *made;

    if (load_words() < 0 || plain_load() < 0 || !(table_type = (PyTypeObject *)PyType_FromSpec(&table_spec))
        || !(pieces_type = (PyTypeObject *)PyType_FromSpec(&pieces_spec))
        || !(iterator_type = (PyTypeObject *)PyType_FromSpec(&iterator_spec)) || make_sequence() < 0)
        return NULL;
    made = PyModule_Create(&module);
    if (made
        && (PyModule_AddObjectRef(made, "Table", (PyObject *)table_type) < 0
            || PyModule_AddObjectRef(made, "Pieces", (PyObject *)pieces_type) < 0
            || PyModule_AddObjectRef(made, "Plain", plain_type) < 0))
        Py_CLEAR(made);
    return made;
}
