/* The fields of structs: where they are in an object, and the numbers in them.
 *
 * A field of a struct of msgspec is a member of the object, which its class says the place
 * of; where a class says something else, its attribute leads there.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>
#include <stdint.h>
#include <structmember.h>

enum { NO_MEMBER = -1, NO_FIELD = -2 };

/* Return where a field is in the objects of a class, or NO_MEMBER; NO_FIELD with an error set if it has none such. */
static inline Py_ssize_t
field_offset(PyObject *type, PyObject *name)
{
    PyObject *member = PyObject_GetAttr(type, name);
    Py_ssize_t offset = NO_MEMBER;

    if (!member)
        return NO_FIELD;
    if (Py_IS_TYPE(member, &PyMemberDescr_Type)) {
        PyMemberDef *found = ((PyMemberDescrObject *)member)->d_member;
        if (found->type == T_OBJECT_EX || found->type == T_OBJECT)
            offset = found->offset;
    }
    Py_DECREF(member);
    return offset;
}

/* Return a new reference to a field; NULL with an error set if there is nothing in it. */
static inline PyObject *
field_of(PyObject *object, Py_ssize_t offset, PyObject *name)
{
    PyObject *value;

    if (offset < 0)
        return PyObject_GetAttr(object, name);
    value = *(PyObject **)((char *)object + offset);
    if (!value)
        PyErr_SetObject(PyExc_AttributeError, name);
    return Py_XNewRef(value);
}

/* Read a number of 64 bits; -1 with an error set if it is none. */
static inline int
number_of(PyObject *object, uint64_t *number)
{
#if ULONG_MAX == UINT64_MAX
    *number = PyLong_AsUnsignedLong(object);
#else
    *number = PyLong_AsUnsignedLongLong(object);
#endif
    return *number == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

/* Read a number: say whether it is an `int` itself, of 64 bits. */
static inline int
plain_number(PyObject *object, uint64_t *number)
{
    if (!PyLong_CheckExact(object))
        return 0;
    if (number_of(object, number) == 0)
        return 1;
    PyErr_Clear(); /* negative, or too large */
    return 0;
}
