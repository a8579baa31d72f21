/* Rows of the wire from events, and events from rows: what is done for each event of each message.
 *
 * The bytes are those of `iommubus.wire.rows`, which does the same in Python and is the
 * one that judges.  Here only what is plain is done: events of the exact classes with
 * numbers that fit, and rows that are right in everything.  Whatever else comes, the answer
 * is None, nothing has happened, and the Python code takes it or says what is wrong
 * with it.  So there is one set of errors, and nothing is refused or taken here that is not there.
 *
 * The bytes come from strangers: no length in them is believed, and no read goes past their end.
 */

#include "fields.h"
#include <stddef.h>
#include <string.h>

enum { SPACE, SEQ, FIRST, LAST, TARGET, PERM, MEMORY, FIELDS };

/* A class of events: where its fields are. */
typedef struct {
    PyTypeObject *type;
    int count;
    Py_ssize_t offsets[FIELDS]; /* as field_offset says */
} Kind;

static const char *const MAP_FIELDS[] = {"space", "seq", "first", "last", "target", "perm", "memory"};
static const char *const LOST_FIELDS[] = {"space", "seq", "count"};

static PyObject *names[FIELDS];      /* MAP_FIELDS, and with one of its own LOST_FIELDS, as strings */
static PyObject *lost_names[FIRST + 1];
static Kind map_kind, unmap_kind, device_kind, lost_kind;
static PyTypeObject *memory_type;
static PyObject *perms[4]; /* by their value, from 1 */

enum { UNMAP_TAG = 1, MAP_TAG = 2, DEVICE_TAG = 4, LOST_TAG = 8 };

#define EVENT_LIMIT 4096 /* `EVENT_LIMIT` of the wire: who has more is answered in Python */
#define LEAST_ROW 4      /* bytes of the shortest row: an array, its tag, two small numbers */
#define MOST_ROW 48      /* and of the longest: an array of a tag, four and one long numbers, and a permission */
#define HEAD 5           /* bytes of the longest beginning of an array */

/* -- fields of events ------------------------------------------------------- */

/* Return a new reference to a field; NULL with an error where it is not set. */
static PyObject *
get_field(PyObject *event, const Kind *kind, int at)
{
    return field_of(event, kind->offsets[at], kind == &lost_kind ? lost_names[at] : names[at]);
}

/* Read a number of 64 bits: 1, or 0 if it is none of those or not an `int` itself, or -1 with an error. */
static int
get_number(PyObject *event, const Kind *kind, int at, uint64_t *number)
{
    PyObject *value = get_field(event, kind, at);
    if (value == NULL) {
        return -1;
    }
    int plain = plain_number(value, number);
    Py_DECREF(value);
    return plain;
}

/* Read a permission: 1, or 0 if it is not a member of `Perm`, or -1 with an error. */
static int
get_perm(PyObject *event, uint64_t *number)
{
    PyObject *value = get_field(event, &map_kind, PERM);
    if (value == NULL) {
        return -1;
    }
    int found = 0;
    for (uint64_t perm = 1; perm < 4 && !found; perm++) {
        if (value == perms[perm]) {
            *number = perm;
            found = 1;
        }
    }
    Py_DECREF(value);
    return found;
}

/* -- packing ---------------------------------------------------------------- */

typedef struct {
    uint8_t *bytes;
    size_t used, room;
    PyObject *places;   /* a dict: the place of each memory, from 1; NULL while there is none */
    PyObject *memories; /* a list of them, in that order */
    PyObject *last;     /* the one that was asked for last, borrowed from the list */
    uint64_t last_place;
} Packing;

static int
make_room(Packing *packing)
{
    if (packing->room - packing->used >= MOST_ROW) {
        return 0;
    }
    size_t room = packing->room * 2;
    uint8_t *bytes = PyMem_Realloc(packing->bytes, room);
    if (bytes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    packing->bytes = bytes;
    packing->room = room;
    return 0;
}

static uint8_t *
put_big_endian(uint8_t *at, uint64_t number, int bytes)
{
    for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) {
        *at++ = (uint8_t)(number >> shift);
    }
    return at;
}

static uint8_t *
put_number(uint8_t *at, uint64_t number)
{
    if (number < 0x80) {
        *at++ = (uint8_t)number;
        return at;
    }
    int size = number <= 0xff ? 0 : number <= 0xffff ? 1 : number <= 0xffffffff ? 2 : 3;
    *at++ = (uint8_t)(0xcc + size);
    return put_big_endian(at, number, 1 << size);
}

/* Say where the memory of a MAP is in the list: 1, or 0 if it is no plain memory, or -1 with an error. */
static int
find_memory(Packing *packing, PyObject *event, uint64_t *place)
{
    PyObject *memory = get_field(event, &map_kind, MEMORY);
    int found = -1;
    if (memory == NULL) {
        return -1;
    }
    if (memory == Py_None) {
        *place = 0;
        found = 1;
    }
    else if (memory == packing->last) {
        *place = packing->last_place;
        found = 1;
    }
    else if (!Py_IS_TYPE(memory, memory_type)) {
        found = 0;
    }
    else if (packing->places != NULL || (packing->places = PyDict_New()) != NULL) {
        PyObject *known = PyDict_GetItemWithError(packing->places, memory);
        if (known != NULL) {
            *place = PyLong_AsUnsignedLongLong(known);
            found = 1;
        }
        else if (!PyErr_Occurred()) {
            *place = (uint64_t)PyList_GET_SIZE(packing->memories) + 1;
            PyObject *number = PyLong_FromUnsignedLongLong(*place);
            if (number != NULL && PyDict_SetItem(packing->places, memory, number) == 0
                && PyList_Append(packing->memories, memory) == 0) {
                found = 1;
            }
            Py_XDECREF(number);
        }
        if (found == 1) { /* the list has the one that came first, which is equal */
            packing->last = PyList_GET_ITEM(packing->memories, (Py_ssize_t)*place - 1);
            packing->last_place = *place;
        }
    }
    Py_DECREF(memory);
    return found;
}

/* Put a row of `count` numbers behind its tag; the same answers as `get_number`. */
static int
put_plain_row(Packing *packing, PyObject *event, const Kind *kind, int tag)
{
    uint64_t numbers[LAST];
    int count = kind->count - 1; /* but for the space */
    for (int at = 0; at < count; at++) {
        int plain = get_number(event, kind, SEQ + at, &numbers[at]);
        if (plain != 1) {
            return plain;
        }
    }
    uint8_t *at = packing->bytes + packing->used;
    *at++ = (uint8_t)(0x90 + 1 + count);
    *at++ = (uint8_t)tag;
    for (int each = 0; each < count; each++) {
        at = put_number(at, numbers[each]);
    }
    packing->used = (size_t)(at - packing->bytes);
    return 1;
}

static int
put_map_row(Packing *packing, PyObject *event)
{
    uint64_t numbers[MEMORY];
    int plain = 1;
    for (int at = SEQ; at <= TARGET && plain == 1; at++) {
        plain = get_number(event, &map_kind, at, &numbers[at - SEQ]);
    }
    if (plain == 1) {
        plain = get_perm(event, &numbers[PERM - SEQ]);
    }
    if (plain == 1) {
        plain = find_memory(packing, event, &numbers[MEMORY - SEQ]);
    }
    if (plain != 1) {
        return plain;
    }
    uint8_t *at = packing->bytes + packing->used;
    *at++ = 0x97;
    *at++ = MAP_TAG;
    for (int each = 0; each <= MEMORY - SEQ; each++) {
        at = put_number(at, numbers[each]);
    }
    packing->used = (size_t)(at - packing->bytes);
    return 1;
}

/* Return the class of an event, and its tag; NULL if it is another one. */
static const Kind *
kind_of(PyObject *event, int *tag)
{
    PyTypeObject *type = Py_TYPE(event);
    const Kind *kind = type == map_kind.type      ? &map_kind
                       : type == unmap_kind.type  ? &unmap_kind
                       : type == device_kind.type ? &device_kind
                       : type == lost_kind.type   ? &lost_kind
                                                  : NULL;
    *tag = kind == &map_kind      ? MAP_TAG
           : kind == &unmap_kind  ? UNMAP_TAG
           : kind == &device_kind ? DEVICE_TAG
                                  : LOST_TAG;
    return kind;
}

/* Say whether an event is of a space: 1 or 0, or -1 with an error. */
static int
is_of(PyObject *event, const Kind *kind, PyObject *space)
{
    PyObject *own = get_field(event, kind, SPACE);
    if (own == NULL) {
        return -1;
    }
    int same = own == space ? 1 : PyObject_RichCompareBool(own, space, Py_EQ);
    Py_DECREF(own);
    return same;
}

/* Put the rows of one run; return where it ends, -1 if not all of it is plain, -2 with an error. */
static Py_ssize_t
put_run(Packing *packing, PyObject *events, Py_ssize_t start)
{
    PyObject *space = NULL;
    Py_ssize_t at = start;
    int done = 1;
    while (done == 1 && at < PySequence_Fast_GET_SIZE(events)) {
        PyObject *event = Py_NewRef(PySequence_Fast_GET_ITEM(events, at));
        int tag;
        const Kind *kind = kind_of(event, &tag);
        if (kind == NULL) {
            done = 0;
        }
        else if (space == NULL) {
            space = get_field(event, kind, SPACE);
            done = space == NULL ? -1 : PyUnicode_CheckExact(space);
        }
        else {
            done = is_of(event, kind, space);
            if (done == 0) { /* the next run begins here */
                Py_DECREF(event);
                break;
            }
        }
        if (done == 1 && (done = make_room(packing) == 0 ? 1 : -1) == 1) {
            done = kind == &map_kind ? put_map_row(packing, event) : put_plain_row(packing, event, kind, tag);
        }
        Py_DECREF(event);
        at += done == 1;
        if (done != 1) {
            at = done == 0 ? -1 : -2;
        }
    }
    Py_XDECREF(space);
    return at;
}

/* Return the bytes of an array of `count` rows, which stand behind room for its beginning. */
static PyObject *
finish(Packing *packing, Py_ssize_t count)
{
    uint8_t head[HEAD], *end = head;
    if (count < 16) {
        *end++ = (uint8_t)(0x90 + count);
    }
    else if (count <= 0xffff) {
        *end++ = 0xdc;
        end = put_big_endian(end, (uint64_t)count, 2);
    }
    else {
        *end++ = 0xdd;
        end = put_big_endian(end, (uint64_t)count, 4);
    }
    size_t size = (size_t)(end - head);
    uint8_t *begin = packing->bytes + HEAD - size;
    memcpy(begin, head, size);
    return PyBytes_FromStringAndSize((char *)begin, (Py_ssize_t)(packing->used - HEAD + size));
}

PyDoc_STRVAR(pack_doc, "pack(events, start, /)\n--\n\n"
                       "Return the rows of the events of one space that begin at ``start``, as bytes, the memories\n"
                       "that they lead into and where the next run begins; `None` if anything in it is not plain.");

static PyObject *
rows_pack(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !(PyList_Check(args[0]) || PyTuple_Check(args[0]))) {
        PyErr_SetString(PyExc_TypeError, "pack(events: list or tuple, start: int)");
        return NULL;
    }
    PyObject *events = args[0];
    Py_ssize_t start = PyLong_AsSsize_t(args[1]);
    if (start == -1 && PyErr_Occurred()) {
        return NULL;
    }
    Py_ssize_t left = PySequence_Fast_GET_SIZE(events) - start;
    if (start < 0 || left < 0 || left > UINT32_MAX) {
        Py_RETURN_NONE;
    }
    Packing packing = {.used = HEAD, .room = HEAD + MOST_ROW * (size_t)(left < 64 ? left + 1 : 64)};
    packing.memories = PyList_New(0);
    packing.bytes = packing.memories == NULL ? NULL : PyMem_Malloc(packing.room);
    PyObject *packed = NULL;
    if (packing.bytes == NULL) {
        PyErr_NoMemory();
    }
    else {
        Py_ssize_t end = put_run(&packing, events, start);
        if (end == -1) {
            packed = Py_NewRef(Py_None);
        }
        else if (end >= 0) {
            packed = Py_BuildValue("(NOn)", finish(&packing, end - start), packing.memories, end);
        }
        PyMem_Free(packing.bytes);
    }
    Py_XDECREF(packing.memories);
    Py_XDECREF(packing.places);
    return packed;
}

/* -- unpacking -------------------------------------------------------------- */

typedef struct {
    const uint8_t *at, *end;
} Reading;

static uint64_t
big_endian(const uint8_t *at, int bytes)
{
    uint64_t number = 0;
    while (bytes-- > 0) {
        number = number << 8 | *at++;
    }
    return number;
}

/* Read a number that is not negative, in whatever form: say whether it is one, and is all there. */
static inline int
read_number(Reading *reading, uint64_t *number)
{
    if (reading->at == reading->end) {
        return 0;
    }
    uint8_t form = *reading->at++;
    if (form < 0x80) {
        *number = form;
        return 1;
    }
    if (form < 0xcc || form > 0xd3) {
        return 0;
    }
    int bytes = 1 << ((form - 0xcc) & 3);
    if (reading->end - reading->at < bytes) {
        return 0;
    }
    *number = big_endian(reading->at, bytes);
    reading->at += bytes;
    return form < 0xd0 || *number >> (bytes * 8 - 1) == 0; /* those from 0xd0 on have a sign */
}

/* Read how many rows there are; -1 if that is not said, or there cannot be so many. */
static Py_ssize_t
read_count(Reading *reading)
{
    if (reading->at == reading->end) {
        return -1;
    }
    uint64_t count;
    uint8_t form = *reading->at++;
    if (form >= 0x90 && form <= 0x9f) {
        count = form & 0xf;
    }
    else if (form == 0xdc || form == 0xdd) {
        int bytes = form == 0xdc ? 2 : 4;
        if (reading->end - reading->at < bytes) {
            return -1;
        }
        count = big_endian(reading->at, bytes);
        reading->at += bytes;
    }
    else {
        return -1;
    }
    if (count > EVENT_LIMIT || count > (uint64_t)(reading->end - reading->at) / LEAST_ROW) {
        return -1;
    }
    return (Py_ssize_t)count;
}

/* Return an event made of its space and numbers, and of what else is given by reference. */
static PyObject *
make_event(const Kind *kind, PyObject *space, const uint64_t *numbers, int count, PyObject *perm, PyObject *memory)
{
    PyObject *args[FIELDS + 1], **fields = args + 1;
    PyObject *event = NULL;
    int made = 0;
    args[0] = NULL; /* scratch of the callee */
    fields[SPACE] = space;
    for (; made < count; made++) {
        fields[SEQ + made] = PyLong_FromUnsignedLongLong(numbers[made]);
        if (fields[SEQ + made] == NULL) {
            break;
        }
    }
    if (made == count) {
        if (perm != NULL) {
            fields[PERM] = perm;
            fields[MEMORY] = memory;
        }
        event = PyObject_Vectorcall((PyObject *)kind->type, fields, (size_t)kind->count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    while (made-- > 0) {
        Py_DECREF(fields[SEQ + made]);
    }
    return event;
}

/* Read one row: an event, or NULL; that is an error only if one is set. */
static PyObject *
read_row(Reading *reading, PyObject *space, PyObject *memories, int watched)
{
    if (reading->end - reading->at < LEAST_ROW) {
        return NULL;
    }
    uint8_t head = *reading->at++, tag = *reading->at++;
    uint64_t numbers[MEMORY] = {0};
    int count = (head & 0xf) - 1; /* numbers behind the tag */
    int is_map = tag == MAP_TAG && (head == 0x96 || head == 0x97);
    int is_lost = tag == LOST_TAG && head == 0x93 && watched;
    int is_gone = (tag == UNMAP_TAG || tag == DEVICE_TAG) && head == 0x94;
    if (!is_map && !is_lost && !is_gone) {
        return NULL;
    }
    for (int at = 0; at < count; at++) {
        if (!read_number(reading, &numbers[at])) {
            return NULL;
        }
    }
    if (is_lost) {
        return make_event(&lost_kind, space, numbers, count, NULL, NULL);
    }
    uint64_t first = numbers[FIRST - SEQ], last = numbers[LAST - SEQ];
    if (first > last) {
        return NULL;
    }
    if (is_gone) {
        return make_event(tag == UNMAP_TAG ? &unmap_kind : &device_kind, space, numbers, count, NULL, NULL);
    }
    uint64_t perm = numbers[PERM - SEQ], place = numbers[MEMORY - SEQ];
    if (numbers[TARGET - SEQ] > UINT64_MAX - (last - first) || perm < 1 || perm > 3
        || place > (uint64_t)PyTuple_GET_SIZE(memories)) {
        return NULL;
    }
    PyObject *memory = place == 0 ? Py_None : PyTuple_GET_ITEM(memories, (Py_ssize_t)place - 1);
    return make_event(&map_kind, space, numbers, TARGET, perms[perm], memory);
}

PyDoc_STRVAR(unpack_doc, "unpack(data, space, memories, watched, /)\n--\n\n"
                         "Return the events of an array of rows, checked; `None` if anything in it is not plain and right.");

static PyObject *
rows_unpack(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !PyTuple_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "unpack(data: buffer, space: str, memories: tuple, watched: bool)");
        return NULL;
    }
    int watched = PyObject_IsTrue(args[3]);
    Py_buffer data;
    if (watched < 0 || PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    Reading reading = {.at = data.buf, .end = (const uint8_t *)data.buf + data.len};
    Py_ssize_t rows = read_count(&reading);
    PyObject *events = rows < 0 ? NULL : PyList_New(rows);
    for (Py_ssize_t at = 0; events != NULL && at < rows; at++) {
        PyObject *event = read_row(&reading, args[1], args[2], watched);
        if (event == NULL) {
            Py_CLEAR(events);
        }
        else {
            PyList_SET_ITEM(events, at, event);
        }
    }
    if (events != NULL && reading.at != reading.end) {
        Py_CLEAR(events);
    }
    PyBuffer_Release(&data);
    if (events == NULL && !PyErr_Occurred()) {
        Py_RETURN_NONE;
    }
    return events;
}

/* -- the module ------------------------------------------------------------- */

/* Find the fields of a class of events. */
static int
find_kind(Kind *kind, PyObject *module, const char *name, PyObject *const *fields, int count)
{
    PyObject *type = PyObject_GetAttrString(module, name);
    if (type == NULL) {
        return -1;
    }
    if (!PyType_Check(type)) {
        Py_DECREF(type);
        PyErr_Format(PyExc_ImportError, "%s is no class", name);
        return -1;
    }
    kind->type = (PyTypeObject *)type;
    kind->count = count;
    for (int at = 0; at < count; at++) {
        kind->offsets[at] = field_offset(type, fields[at]);
        if (kind->offsets[at] == NO_FIELD) {
            return -1;
        }
    }
    return 0;
}

static int
find_names(PyObject **into, const char *const *from, int count)
{
    for (int at = 0; at < count; at++) {
        into[at] = PyUnicode_InternFromString(from[at]);
        if (into[at] == NULL) {
            return -1;
        }
    }
    return 0;
}

static int
find_events(void)
{
    PyObject *events = PyImport_ImportModule("iommubus.events");
    if (events == NULL) {
        return -1;
    }
    PyObject *memory = PyObject_GetAttrString(events, "Memory");
    int found = memory != NULL && PyType_Check(memory) && find_kind(&map_kind, events, "Map", names, FIELDS) == 0
                && find_kind(&unmap_kind, events, "Unmap", names, TARGET) == 0
                && find_kind(&device_kind, events, "DevIotlbUnmap", names, TARGET) == 0
                && find_kind(&lost_kind, events, "Lost", lost_names, FIRST + 1) == 0;
    memory_type = (PyTypeObject *)memory; /* kept, as all of these are, as long as the process lives */
    Py_DECREF(events);
    return found ? 0 : -1;
}

static int
find_perms(void)
{
    PyObject *caps = PyImport_ImportModule("iommubus.caps");
    PyObject *perm = caps == NULL ? NULL : PyObject_GetAttrString(caps, "Perm");
    int found = perm != NULL;
    for (int value = 1; value < 4 && found; value++) {
        perms[value] = PyObject_CallFunction(perm, "i", value);
        found = perms[value] != NULL;
    }
    Py_XDECREF(perm);
    Py_XDECREF(caps);
    return found ? 0 : -1;
}

static PyMethodDef methods[] = {
    {"pack", (PyCFunction)(void (*)(void))rows_pack, METH_FASTCALL, pack_doc},
    {"unpack", (PyCFunction)(void (*)(void))rows_unpack, METH_FASTCALL, unpack_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "iommubus.compiled.rows",
    .m_doc = "Rows of the wire from events, and events from rows.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit_rows(void)
{
    if (find_names(names, MAP_FIELDS, FIELDS) < 0 || find_names(lost_names, LOST_FIELDS, FIRST + 1) < 0
        || find_events() < 0 || find_perms() < 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ImportError, "the events are not what they were");
        }
        return NULL;
    }
    return PyModule_Create(&definition);
}
