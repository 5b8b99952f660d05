// Loaded with NODE_OPTIONS="--require ..." into NNI's node manager, and into what stands for it on other machines. Other
// programs of node are left alone.
'use strict';

const childProcess = require('child_process');
const Module = require('module');
const net = require('net');

const { HOST, prepareWorkers } = require('./remote');

function isPort(value) {
    return typeof value === 'number' || (typeof value === 'string' && /^\d+$/.test(value));
}

// Every trial gets its own parameters. NNI 3.0 gives them to whichever trial asks first, and then shows those of two
// trials that start together the wrong way round.
function ownParameters(Service) {
    const submit = Service.prototype.submitTrialJob;
    Service.prototype.submitTrialJob = async function (form) {
        const trial = await submit.call(this, form);
        const parameters = form.hyperParameters.value;
        const place = this.parameters.indexOf(parameters);
        if (place >= 0) {
            this.parameters.splice(place, 1);
            this.allocatedParameters.set(trial.id, parameters);
        }
        return trial;
    };
}

if (/[\\/]nni_node[\\/](common[\\/]trial_keeper[\\/])?main\.js$/.test(process.argv[1] || '')) {
    // All that it opens listens on 127.0.0.1 only, unless the user wants it open. NNI 3.0 listens on every interface
    // without a login, and has no option for it.
    const listen = net.Server.prototype.listen;
    // listen() is called with a port and perhaps a host, with an object of options, or with a socket's path.
    net.Server.prototype.listen = function (...given) {
        const callbacks = given.filter((value) => typeof value === 'function');
        const target = typeof given[0] === 'function' || given[0] === undefined || given[0] === null ? 0 : given[0];
        if (process.env.NASTC_OPEN === 'yes') {
            return listen.apply(this, given);
        }
        if (isPort(target)) {
            return listen.call(this, { port: Number(target), host: HOST }, ...callbacks);
        }
        if (typeof target === 'object' && isPort(target.port)) {
            return listen.call(this, { ...target, host: HOST }, ...callbacks);
        }
        return listen.apply(this, given);
    };

    // So does TensorBoard, which the page starts with --bind_all.
    const spawn = childProcess.spawn;
    childProcess.spawn = function (command, parts, ...rest) {
        if (command !== 'tensorboard' || process.env.NASTC_OPEN === 'yes') {
            return spawn.call(this, command, parts, ...rest);
        }
        return spawn.call(this, command, parts.map((part) => part.replace('--bind_all', `--host ${HOST}`)), ...rest);
    };

    // Where it is asked for, the manager ends with the process that has started it, even if that is killed.
    const parent = process.ppid;
    if (process.env.NASTC_PARENT === String(parent)) {
        const watch = setInterval(() => {
            if (process.ppid !== parent) {
                clearInterval(watch);
                process.kill(process.pid, 'SIGTERM');
            }
        }, 500);
        watch.unref();
    }

    const load = Module._load;
    Module._load = function (...given) {
        const loaded = load.apply(this, given);
        if (loaded && loaded.Worker && loaded.Worker.prototype.launchTrialKeeperDaemon) {
            prepareWorkers(loaded.Worker);
        }
        if (loaded && loaded.V3asV1) { // the last one to be loaded
            Module._load = load;
            ownParameters(loaded.V3asV1);
        }
        return loaded;
    };
}
