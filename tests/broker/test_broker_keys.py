"""smoke"""
import os
def test_smoke(broker, supervisor):
    print(broker.call("Status"))
    k = broker.generate("db", bits=256)
    print(k)
    fd = broker.open(key="cryptofd:db"); os.close(fd)
    broker.import_key("old", "gcm(aes)", bytes(32), exportable=True)
    assert broker.export("old") == bytes(32)
    print(broker.call("ListKeys"))
    print(supervisor.log.read_text())
    print(supervisor.keks)
