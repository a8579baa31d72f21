/* The plain changes of one space, made in its table and told of: a part of table.c.
 *
 * `iommubus.plain.PurePlain` says what it does.  Whatever is not plain is left to who
 * calls: then nothing has changed.
 *
 * An event stands where it has to before the table changes, and is taken away again if the
 * table does not: once it has changed, nothing is left to do that can fail.
 */

#define HALF ((uint64_t)1 << 63) /* as in shape.py */

enum { FIRST, LAST, TARGET, PERM, MEMORY, SEQ, FIELDS };

/* A class: where its fields are. */
typedef struct {
    PyTypeObject *type;
    Py_ssize_t offsets[FIELDS]; /* as field_offset says */
} Kind;

typedef struct {
    PyObject_HEAD
    PyObject *space;
    Table *table; /* it knows nothing of this one, which therefore is no part of a cycle either */
    int maps, unmaps;             /* whether any can be plain */
    uint64_t map_last, unmap_last; /* up to where, then */
    uint64_t mask;
} Plain;

/* What is to be done. */
typedef struct {
    PyObject *fields[FIELDS]; /* held; NULL if it has none such */
    uint64_t first, last, target;
    uint32_t perm;
} Wish;

/* Where it is told of. */
typedef struct {
    PyObject *keep, *note; /* lists */
    uint64_t seq;          /* of the last event */
} Telling;

static PyObject *field_names[FIELDS], *iommubus_error, *plain_type, *whole_size;
static Kind map_kind, unmap_kind, mapping_kind, range_kind;

/* -- what is plain ------------------------------------------------------------- */

/* Return what a permission allows; 0 if it is none of the three. */
static inline uint32_t
plain_perm(PyObject *object)
{
    return object == perms[3] ? 3 : object == perms[1] ? 1 : object == perms[2] ? 2 : 0;
}

static inline int
may_map(Plain *self, uint64_t first, uint64_t last, uint64_t target)
{
    return self->maps && first <= last && last <= self->map_last && target <= HALF
           && !((first | (last + 1) | target) & self->mask);
}

static inline int
may_unmap(Plain *self, uint64_t first, uint64_t last)
{
    return self->unmaps && first <= last && last <= self->unmap_last && !((first | (last + 1)) & self->mask);
}

/* -- fields ---------------------------------------------------------------------- */

/* Hold a field; -1 with an error set if it has none. */
static inline int
wish_field(Wish *wish, const Kind *kind, PyObject *object, int at)
{
    wish->fields[at] = field_of(object, kind->offsets[at], field_names[at]);
    return wish->fields[at] ? 0 : -1;
}

static inline void
wish_clear(Wish *wish)
{
    for (int at = 0; at < FIELDS; at++)
        Py_XDECREF(wish->fields[at]);
}

/* Read an UNMAP: 1, or 0 if it is not plain, or -1 with an error set. */
static inline int
wish_unmap(Wish *wish, Plain *self, const Kind *kind, PyObject *object)
{
    if (wish_field(wish, kind, object, FIRST) < 0 || wish_field(wish, kind, object, LAST) < 0)
        return -1;
    return plain_number(wish->fields[FIRST], &wish->first) && plain_number(wish->fields[LAST], &wish->last)
           && may_unmap(self, wish->first, wish->last);
}

/* Read a MAP: 1, or 0 if it is not plain, or -1 with an error set. */
static inline int
wish_map(Wish *wish, Plain *self, const Kind *kind, PyObject *object)
{
    for (int at = FIRST; at <= MEMORY; at++)
        if (wish_field(wish, kind, object, at) < 0)
            return -1;
    wish->perm = plain_perm(wish->fields[PERM]);
    return wish->perm && plain_number(wish->fields[FIRST], &wish->first)
           && plain_number(wish->fields[LAST], &wish->last) && plain_number(wish->fields[TARGET], &wish->target)
           && may_map(self, wish->first, wish->last, wish->target);
}

/* -- events ---------------------------------------------------------------------- */

static inline PyObject *
map_event(Plain *self, PyObject *seq, PyObject *const *fields)
{
    PyObject *room[8] = {NULL, self->space, seq, fields[FIRST], fields[LAST], fields[TARGET], fields[PERM],
                         fields[MEMORY]};
    size_t count = fields[MEMORY] && fields[MEMORY] != Py_None ? 7 : 6;

    return PyObject_Vectorcall((PyObject *)map_kind.type, room + 1, count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

static inline PyObject *
unmap_event(Plain *self, PyObject *seq, PyObject *const *fields)
{
    PyObject *room[5] = {NULL, self->space, seq, fields[FIRST], fields[LAST]};

    return PyObject_Vectorcall((PyObject *)unmap_kind.type, room + 1, 4 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

/* Append the event of a wish; `same` is returned if it is that event already, or NULL. */
static int
tell(Telling *telling, Plain *self, const Wish *wish, PyObject *same, int maps)
{
    uint64_t held;
    PyObject *seq, *event;
    int done;

    if (same && plain_number(wish->fields[SEQ], &held) && held == telling->seq + 1)
        return PyList_Append(telling->keep, same);
    seq = PyLong_FromUnsignedLongLong(telling->seq + 1);
    if (!seq)
        return -1;
    event = maps ? map_event(self, seq, wish->fields) : unmap_event(self, seq, wish->fields);
    Py_DECREF(seq);
    if (!event)
        return -1;
    done = PyList_Append(telling->keep, event);
    Py_DECREF(event);
    return done;
}

/* Take the last one of a list away again, whether or not an error is set. */
static void
untell(PyObject *list)
{
    PyObject *type, *value, *trace;
    Py_ssize_t count = PyList_GET_SIZE(list);

    PyErr_Fetch(&type, &value, &trace);
    if (count && PyList_SetSlice(list, count - 1, count, NULL) < 0)
        PyErr_Clear();
    PyErr_Restore(type, value, trace);
}

/* Make a MAP happen: 1, or 0 if that very mapping was there, or -1 with an error set and nothing changed. */
static int
do_map(Plain *self, Telling *telling, Wish *wish, PyObject *same)
{
    uint32_t attr;
    int done;

    if (table_attr(self->table, (long)wish->perm, wish->fields[MEMORY], &attr) < 0
        || tell(telling, self, wish, same, 1) < 0)
        return -1;
    done = table_insert(self->table, wish->first, wish->last, wish->target, attr);
    if (done > 0)
        telling->seq++;
    else
        untell(telling->keep);
    return done;
}

/* Make an UNMAP happen: 1, or 0 if nothing was there, or -1 with an error set and nothing changed. */
static int
do_unmap(Plain *self, Telling *telling, Wish *wish, PyObject *same)
{
    PyObject *removed, *seq = PyLong_FromUnsignedLongLong(telling->seq + 1);
    PyObject *noted = seq ? PyTuple_Pack(2, seq, Py_None) : NULL;
    Py_ssize_t count = 0;
    int done = -1;

    Py_XDECREF(seq);
    if (!noted)
        return -1;
    if (PyList_Append(telling->note, noted) == 0) {
        if (tell(telling, self, wish, same, 0) == 0) {
            removed = table_remove(self->table, wish->first, wish->last, wish->fields);
            count = removed ? PyObject_Size(removed) : -1;
            if (count > 0) {
                telling->seq++;
                Py_DECREF(PyTuple_GET_ITEM(noted, 1));
                PyTuple_SET_ITEM(noted, 1, Py_NewRef(removed));
            }
            else
                untell(telling->keep);
            Py_XDECREF(removed);
            done = count < 0 ? -1 : count > 0;
        }
        if (done <= 0)
            untell(telling->note);
    }
    Py_DECREF(noted);
    return done;
}

/* -- one call ---------------------------------------------------------------------- */

static int
check_count(const char *name, Py_ssize_t count, Py_ssize_t wanted)
{
    if (count == wanted)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, got %zd", name, wanted, count);
    return -1;
}

static PyObject *
plain_map(Plain *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *fields[FIELDS] = {NULL}, *event;
    uint64_t first, size, target;
    uint32_t perm;
    int done;

    if (check_count("map", count, 5) < 0)
        return NULL;
    perm = plain_perm(args[3]);
    if (!perm || !plain_number(args[0], &first) || !plain_number(args[1], &size) || !plain_number(args[2], &target)
        || !size || size - 1 > UINT64_MAX - first || !may_map(self, first, first + (size - 1), target))
        Py_RETURN_NONE;
    fields[FIRST] = args[0];
    fields[LAST] = PyLong_FromUnsignedLongLong(first + (size - 1));
    fields[TARGET] = args[2];
    fields[PERM] = args[3];
    event = fields[LAST] ? map_event(self, args[4], fields) : NULL;
    Py_XDECREF(fields[LAST]);
    if (!event)
        return NULL;
    done = table_insert(self->table, first, first + (size - 1), target, perm);
    if (done > 0)
        return event;
    Py_DECREF(event);
    return done < 0 ? NULL : Py_NewRef(Py_False);
}

/* Read where a range that is to be unmapped ends; say whether it can be plain. */
static int
unmap_last(PyObject *object, uint64_t first, uint64_t *last)
{
    uint64_t size;

    if (plain_number(object, &size)) {
        *last = first + (size - 1);
        return size && size - 1 <= UINT64_MAX - first;
    }
    *last = UINT64_MAX;
    return !first && PyLong_CheckExact(object) && PyObject_RichCompareBool(object, whole_size, Py_EQ) == 1;
}

static PyObject *
plain_unmap(Plain *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *fields[FIELDS] = {NULL}, *both, *event, *removed = NULL;
    uint64_t first, last;
    Py_ssize_t pieces = -1;

    if (check_count("unmap", count, 3) < 0)
        return NULL;
    if (!plain_number(args[0], &first) || !unmap_last(args[1], first, &last) || !may_unmap(self, first, last))
        Py_RETURN_NONE;
    fields[FIRST] = args[0];
    fields[LAST] = PyLong_FromUnsignedLongLong(last);
    event = fields[LAST] ? unmap_event(self, args[2], fields) : NULL;
    both = event ? PyTuple_New(2) : NULL;
    if (both && (removed = table_remove(self->table, first, last, fields)))
        pieces = PyObject_Size(removed);
    Py_XDECREF(fields[LAST]);
    if (pieces > 0) {
        PyTuple_SET_ITEM(both, 0, event);
        PyTuple_SET_ITEM(both, 1, removed);
        return both;
    }
    Py_XDECREF(removed);
    Py_XDECREF(both);
    Py_XDECREF(event);
    return pieces < 0 ? NULL : Py_NewRef(Py_False);
}

/* -- many -------------------------------------------------------------------------- */

static int
telling_init(Telling *telling, PyObject *seq, PyObject *keep, PyObject *note)
{
    telling->keep = keep;
    telling->note = note;
    if (!PyList_Check(keep) || !PyList_Check(note)) {
        PyErr_SetString(PyExc_TypeError, "what is kept and noted is kept in lists");
        return -1;
    }
    return number_of(seq, &telling->seq);
}

/* Have the target of a wish checked; -1 with an error set if it is refused. */
static int
check_target(PyObject *check_memory, Wish *wish)
{
    PyObject *size = PyLong_FromUnsignedLongLong(wish->last - wish->first + 1), *done;

    if (!size)
        return -1;
    done = PyObject_CallFunctionObjArgs(check_memory, wish->fields[MEMORY], wish->fields[TARGET], size, NULL);
    Py_DECREF(size);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* Make an event happen: 1, or 0 if it is not plain, or -1 with an error set. */
static int
repeat_one(Plain *self, Telling *telling, PyObject *event, Py_ssize_t *room, PyObject *check_memory)
{
    Wish wish = {.fields = {NULL}};
    int done = 0;

    if (Py_IS_TYPE(event, map_kind.type)) {
        done = wish_map(&wish, self, &map_kind, event);
        if (done > 0)
            done = *room <= 0 ? 0 : wish_field(&wish, &map_kind, event, SEQ) < 0 ? -1 : 1;
        if (done > 0 && wish.fields[MEMORY] != Py_None)
            done = check_target(check_memory, &wish) < 0 ? -1 : 1;
        if (done > 0) {
            int made = do_map(self, telling, &wish, event);
            *room -= made > 0;
            done = made < 0 ? -1 : 1;
        }
    }
    else if (Py_IS_TYPE(event, unmap_kind.type)) {
        done = wish_unmap(&wish, self, &unmap_kind, event);
        if (done > 0)
            done = wish_field(&wish, &unmap_kind, event, SEQ) < 0 ? -1 : 1;
        if (done > 0) {
            int made = do_unmap(self, telling, &wish, event);
            *room += made > 0 && *room < PY_SSIZE_T_MAX;
            done = made < 0 ? -1 : 1;
        }
    }
    wish_clear(&wish);
    return done;
}

static PyObject *
plain_repeat(Plain *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *event = NULL, *made;
    Py_ssize_t room, happened = 0;
    Telling telling;

    if (check_count("repeat", count, 6) < 0 || telling_init(&telling, args[1], args[4], args[5]) < 0)
        return NULL;
    room = PyNumber_AsSsize_t(args[2], NULL);
    if (room == -1 && PyErr_Occurred())
        return NULL;
    if (!PyIter_Check(args[0])) {
        PyErr_Format(PyExc_TypeError, "events come from an iterator, got %R", args[0]);
        return NULL;
    }
    while ((event = PyIter_Next(args[0]))) {
        int done = repeat_one(self, &telling, event, &room, args[3]);
        if (done < 0 && PyErr_ExceptionMatches(iommubus_error)) {
            PyErr_Clear(); /* who tries it again is told */
            done = 0;
        }
        if (done == 0)
            break;
        Py_DECREF(event);
        if (done < 0)
            return NULL;
        happened++;
    }
    if (!event && PyErr_Occurred())
        return NULL;
    made = Py_BuildValue("(nO)", happened, event ? event : Py_None);
    Py_XDECREF(event);
    return made;
}

/* Make a change happen: 1, or 0 if it is not plain, or -1 with an error set. */
static int
change_one(Plain *self, Telling *telling, PyObject *change)
{
    Wish wish = {.fields = {NULL}};
    int done = 0;

    if (Py_IS_TYPE(change, mapping_kind.type)) {
        done = wish_map(&wish, self, &mapping_kind, change);
        if (done > 0)
            done = wish.fields[MEMORY] != Py_None ? 0 : do_map(self, telling, &wish, NULL) < 0 ? -1 : 1;
    }
    else if (Py_IS_TYPE(change, range_kind.type)) {
        done = wish_unmap(&wish, self, &range_kind, change);
        if (done > 0)
            done = do_unmap(self, telling, &wish, NULL) < 0 ? -1 : 1;
    }
    wish_clear(&wish);
    return done;
}

static PyObject *
plain_change(Plain *self, PyObject *const *args, Py_ssize_t count)
{
    Telling telling;
    Py_ssize_t at;

    if (check_count("change", count, 5) < 0 || telling_init(&telling, args[2], args[3], args[4]) < 0)
        return NULL;
    at = PyNumber_AsSsize_t(args[1], NULL);
    if (at == -1 && PyErr_Occurred())
        return NULL;
    if (at < 0 || !(PyList_Check(args[0]) || PyTuple_Check(args[0]))) {
        PyErr_SetString(PyExc_TypeError, "changes are a list or a tuple, and gone through from an index");
        return NULL;
    }
    telling.seq += (uint64_t)PyList_GET_SIZE(telling.keep);
    for (; at < PySequence_Fast_GET_SIZE(args[0]); at++) {
        PyObject *change = Py_NewRef(PySequence_Fast_GET_ITEM(args[0], at));
        int done = change_one(self, &telling, change);
        Py_DECREF(change);
        if (done < 0)
            return NULL;
        if (done == 0)
            break;
    }
    return PyLong_FromSsize_t(at);
}

/* -- the type ---------------------------------------------------------------------- */

/* Read up to where something is plain, from an attribute of a shape: nowhere, if that is negative. */
static int
read_last(PyObject *shape, const char *name, int *any, uint64_t *last)
{
    PyObject *value = PyObject_GetAttrString(shape, name), *zero = value ? PyLong_FromLong(0) : NULL;
    int below = zero ? PyObject_RichCompareBool(value, zero, Py_LT) : -1;

    *any = below == 0;
    if (below == 0 && number_of(value, last) < 0)
        below = -1;
    Py_XDECREF(value);
    Py_XDECREF(zero);
    return below < 0 ? -1 : 0;
}

static int
read_mask(PyObject *shape, uint64_t *mask)
{
    PyObject *granule = PyObject_GetAttrString(shape, "granule"), *one = granule ? PyLong_FromLong(1) : NULL;
    PyObject *value = one ? PyNumber_Subtract(granule, one) : NULL; /* a granule may be 2^64 */
    int done = value ? number_of(value, mask) : -1;

    Py_XDECREF(granule);
    Py_XDECREF(one);
    Py_XDECREF(value);
    return done;
}

static PyObject *
plain_new(PyTypeObject *type, PyObject *args, PyObject *words)
{
    static char *names[] = {"space", "table", "shape", "split", NULL};
    PyObject *space, *table, *shape;
    Plain *self;
    int split;

    if (!PyArg_ParseTupleAndKeywords(args, words, "UO!O$p:Plain", names, &space, table_type, &table, &shape, &split))
        return NULL;
    self = (Plain *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->space = Py_NewRef(space);
    self->table = (Table *)Py_NewRef(table);
    if (read_last(shape, "plain_last", &self->maps, &self->map_last) < 0
        || read_last(shape, "last", &self->unmaps, &self->unmap_last) < 0 || read_mask(shape, &self->mask) < 0)
        Py_CLEAR(self);
    else if (split)
        self->unmaps = 0;
    return (PyObject *)self;
}

static void
plain_dealloc(Plain *self)
{
    PyTypeObject *type = Py_TYPE(self);

    Py_XDECREF(self->space);
    Py_XDECREF(self->table);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef plain_methods[] = {
    METHOD("map", plain_map, METH_FASTCALL,
           "map($self, iova, size, target, perm, seq, /)\n--\n\n"
           "Add a mapping, and return its event; False if it was there, None if it is not plain."),
    METHOD("unmap", plain_unmap, METH_FASTCALL,
           "unmap($self, iova, size, seq, /)\n--\n\n"
           "Remove what is in a range, and return the event and what it was; False if nothing was there, "
           "None if it is not plain."),
    METHOD("repeat", plain_repeat, METH_FASTCALL,
           "repeat($self, events, seq, room, check_memory, keep, note, /)\n--\n\n"
           "Make events happen up to the first that is not plain, or cannot be."),
    METHOD("change", plain_change, METH_FASTCALL,
           "change($self, changes, at, seq, keep, note, /)\n--\n\nMake changes up to the first that is not plain."),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot plain_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The plain changes of one space, made in its table and told of.")},
    {Py_tp_new, plain_new},
    {Py_tp_dealloc, plain_dealloc},
    {Py_tp_methods, plain_methods},
    {0, NULL},
};

static PyType_Spec plain_spec = {
    .name = "iommubus.compiled.table.Plain",
    .basicsize = sizeof(Plain),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = plain_slots,
};

/* Find a class and its fields, those whose bit is set. */
static int
kind_load(Kind *kind, const char *module, const char *name, unsigned fields)
{
    PyObject *type = borrowed_from(module, name);

    if (!type)
        return -1;
    kind->type = (PyTypeObject *)type; /* kept as long as the process lives */
    for (int at = 0; at < FIELDS; at++) {
        kind->offsets[at] = fields >> at & 1 ? field_offset(type, field_names[at]) : NO_MEMBER;
        if (kind->offsets[at] == NO_FIELD)
            return -1;
    }
    return 0;
}

static int
plain_load(void)
{
    static const char *const names[] = {"first", "last", "target", "perm", "memory", "seq"};
    const unsigned edges = 1u << FIRST | 1u << LAST, mapping = edges | 1u << TARGET | 1u << PERM | 1u << MEMORY;

    for (int at = 0; at < FIELDS; at++)
        if (!(field_names[at] = PyUnicode_InternFromString(names[at])))
            return -1;
    if (!(whole_size = PyLong_FromString("10000000000000000", NULL, 16)))
        return -1;
    if (!(iommubus_error = borrowed_from("iommubus.errors", "IommubusError"))
        || kind_load(&map_kind, "iommubus.events", "Map", mapping | 1u << SEQ) < 0
        || kind_load(&unmap_kind, "iommubus.events", "Unmap", edges | 1u << SEQ) < 0
        || kind_load(&mapping_kind, "iommubus.mapping", "Mapping", mapping) < 0
        || kind_load(&range_kind, "iommubus.ranges", "IovaRange", edges) < 0)
        return -1;
    plain_type = PyType_FromSpec(&plain_spec);
    return plain_type ? 0 : -1;
}
