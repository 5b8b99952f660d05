// Loaded into NNI's node manager with NODE_OPTIONS="--require ...": all that it opens listens on 127.0.0.1 only.
// NNI 3.0 listens on every interface without a login, and has no option for it. Other programs of node are left alone.
'use strict';

const net = require('net');

const HOST = '127.0.0.1';

function isPort(value) {
    return typeof value === 'number' || (typeof value === 'string' && /^\d+$/.test(value));
}

if (/[\\/]nni_node[\\/]main\.js$/.test(process.argv[1] || '')) {
    const listen = net.Server.prototype.listen;
    // listen() is called with a port and perhaps a host, with an object of options, or with a socket's path.
    net.Server.prototype.listen = function (...given) {
        const callbacks = given.filter((value) => typeof value === 'function');
        const target = typeof given[0] === 'function' || given[0] === undefined || given[0] === null ? 0 : given[0];
        if (isPort(target)) {
            return listen.call(this, { port: Number(target), host: HOST }, ...callbacks);
        }
        if (typeof target === 'object' && isPort(target.port)) {
            return listen.call(this, { ...target, host: HOST }, ...callbacks);
        }
        return listen.apply(this, given);
    };
}
