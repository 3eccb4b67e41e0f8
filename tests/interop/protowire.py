"""Just enough of the protobuf wire format to speak to a service without generated code."""


def _varint(value):
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def number(field, value):
    """A varint field: integers, enums and booleans."""
    return _varint(field << 3) + _varint(int(value))


def data(field, value):
    """A length-delimited field: bytes, strings and messages that are encoded already."""
    value = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _read_varint(message, position):
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def decode(message):
    """All fields by number; each is a list, as any may repeat. Integers come as `int`, the rest as `bytes`."""
    fields, position = {}, 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _read_varint(message, position)
        elif kind in (1, 2, 5):
            if kind == 2:
                length, position = _read_varint(message, position)
            else:
                length = 8 if kind == 1 else 4
            if position + length > len(message):
                raise ValueError("the message ends within a field")
            value, position = message[position : position + length], position + length
        else:
            raise ValueError(f"wire type {kind} is not in use")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def text(fields, field):
    """The last value of a string field, or the empty string."""
    return fields.get(field, [b""])[-1].decode()
