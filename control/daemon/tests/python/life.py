"""A guest's life by libvirt's Python binding, as programs that manage clouds drive it.

usage: life.py SOCKET READ_ONLY_SOCKET DESCRIPTION
"""

import sys
import threading
import time

import libvirt

LIFECYCLE = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE


def expect(what, is_so):
    if not is_so:
        sys.exit(f"not as expected: {what}")


def refused(code, domain, call, *args):
    """The error that a call fails with has this code and domain."""
    try:
        call(*args)
    except libvirt.libvirtError as error:
        got = (error.get_error_code(), error.get_error_domain())
        expect(f"{got} instead of {(code, domain)}: {error}", got == (code, domain))
        return error
    sys.exit(f"{call} was not refused")


def loop():
    while True:
        libvirt.virEventRunDefaultImpl()


def main():
    socket, read_only_socket, description = sys.argv[1:]
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=loop, daemon=True).start()
    connection = libvirt.open(f"qemu+unix:///system?socket={socket}")
    # From now on the daemon and this client ask each other whether they are alive.
    connection.setKeepAlive(5, 3)

    seen = []

    def on_event(_connection, domain, event, detail, _opaque):
        seen.append((domain.name(), event, detail))

    callback = connection.domainEventRegisterAny(None, LIFECYCLE, on_event, None)
    expect("type", connection.getType() == "QEMU")
    expect("version", connection.getVersion() >= 10000000)
    expect("host", connection.getInfo()[2] >= 1)
    expect("capabilities", "<arch>x86_64</arch>" in connection.getCapabilities())
    expect("alive", connection.isAlive())

    with open(description) as file:
        text = file.read()
    guest = connection.defineXML(text)
    expect("not active", not guest.isActive() and guest.ID() == -1)
    refused(55, 20, guest.destroy)
    guest.create()
    expect("running", guest.state() == [1, 1])
    expect("listed", [g.name() for g in connection.listAllDomains()] == [guest.name()])
    expect("active", [g.UUIDString() for g in connection.listAllDomains(1)] == [guest.UUIDString()])
    expect("found", connection.lookupByID(guest.ID()).name() == guest.name())
    expect("found", connection.lookupByUUIDString(guest.UUIDString()).name() == guest.name())
    state, max_memory, memory, vcpus, _time = guest.info()
    expect("info", (state, max_memory, memory, vcpus) == (1, 32768, 32768, 1))
    expect("live description", f"id='{guest.ID()}'" in guest.XMLDesc())
    migratable = guest.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
    expect("description to be sent", " id='" not in migratable)
    guest.suspend()
    expect("paused", guest.state() == [3, 1])
    guest.resume()
    expect("resumed", guest.state() == [1, 5])
    guest.setAutostart(1)
    expect("autostart", guest.autostart() == 1)

    looking = libvirt.openReadOnly(f"qemu+unix:///system?socket={read_only_socket}")
    expect("may look", looking.lookupByName(guest.name()).isActive())
    refused(29, 20, looking.defineXML, text)
    looking.close()

    refused(42, 10, connection.lookupByName, "nobody")
    guest.destroy()
    expect("off", guest.state() == [5, 2])
    guest.undefine()
    refused(42, 10, connection.lookupByName, guest.name())

    wanted = [(0, 0), (4, 0), (2, 0), (3, 0), (4, 0), (6, 2), (5, 1), (1, 0)]
    deadline = time.monotonic() + 60
    while len(seen) < len(wanted) and time.monotonic() < deadline:
        time.sleep(0.01)
    got = [(event, detail) for _name, event, detail in seen]
    expect(f"events {got}", got == wanted)
    connection.domainEventDeregisterAny(callback)
    connection.close()
    print("as expected")


main()
