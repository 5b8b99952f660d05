// What trials on other machines need: those reach the manager, which listens on 127.0.0.1 only, through reverse SSH
// tunnels, and what NNI opens over there is closed as it is here.
'use strict';

const { spawn } = require('child_process');
const fs = require('fs');
const path = require('path');

const HOST = '127.0.0.1';

const tunnels = new Map(); // machine -> process

// Resolves to the port of the other machine's 127.0.0.1 that leads here, which its SSH server has chosen.
function openTunnel(machine, port) {
    const login = `${machine.user}@${machine.host}`;
    const options = ['BatchMode=yes', 'ExitOnForwardFailure=yes', 'LogLevel=INFO', 'ServerAliveInterval=15'];
    const key = machine.sshKeyFile ? ['-i', machine.sshKeyFile] : [];
    const command = ['-T', ...options.flatMap((option) => ['-o', option]), '-p', String(machine.port), ...key];
    // "cat" ends, and the tunnel with it, when this process no longer holds its input, however it has ended.
    const ssh = spawn('ssh', [...command, '-R', `${HOST}:0:${HOST}:${port}`, login, 'cat'], {
        stdio: ['pipe', 'ignore', 'pipe'],
    });
    if (tunnels.has(machine)) {
        tunnels.get(machine).kill(); // that of an earlier try
    }
    tunnels.set(machine, ssh);
    return new Promise((resolve, reject) => {
        let said = '';
        ssh.stderr.on('data', (data) => {
            said += data;
            const found = /Allocated port (\d+) for remote forward/.exec(said);
            if (found) {
                resolve(found[1]);
            }
        });
        const fail = (reason) => {
            const byHand = ['ssh', '-p', machine.port, ...key, login].join(' ');
            reject(new Error(`no SSH tunnel to ${machine.host}: ${reason}; log in once by hand: ${byHand}`));
        };
        ssh.stdin.on('error', () => {}); // "close" tells it
        ssh.on('error', (problem) => fail(problem.message));
        ssh.on('close', () => fail(said.trim().split('\n').pop() || 'ssh has ended'));
    });
}

// NNI 3.0 lets the other machines dial the manager's own port.
async function dialThroughTunnel(worker) {
    const url = new URL(worker.channelUrl);
    url.hostname = HOST;
    url.port = await openTunnel(worker.config, url.port);
    worker.channelUrl = url.href;
}

// Returns the command of the other machine's Python, closed as the manager is: node loads manager.js there, too.
async function closedPython(python, worker) {
    const source = fs.readFileSync(path.join(__dirname, '..', '__init__.py'), 'utf8');
    const needed = /__version__ = "(.*)"/.exec(source)[1];
    const settings = "shlex.join(map('='.join, server.closed_environment().items()))";
    const modules = 'shlex, nni_nastc, nni_nastc.experiments.server as server';
    const code = `import ${modules}; print(nni_nastc.__version__, ${settings})`;
    const answer = await worker.ssh.exec(`${python} -c "${code}"`);
    const [, version, variables] = /^(\S+) (.*)/.exec(answer.stdout.trim()) || [];
    if (answer.code !== 0 || version !== needed) {
        const reason = answer.code === 0 ? `nni_nastc ${version}` : answer.stderr.trim().split('\n').pop();
        const advice = 'install it with pip there, or set pythonPath to the folder of the right Python';
        throw new Error(`${worker.config.host} needs nni_nastc ${needed}, its ${python} has: ${reason}; ${advice}`);
    }
    // Without SSH_CLIENT, bash does not read ~/.bashrc once more for each trial, which may put another Python first.
    return `env -u SSH_CLIENT ${variables} ${python}`;
}

function prepareWorkers(Worker) {
    const { start, findPython } = Worker.prototype;
    Worker.prototype.start = async function () {
        if (process.env.NASTC_OPEN !== 'yes') {
            await dialThroughTunnel(this);
        }
        const run = this.ssh.run;
        // NNI would replace itself by its newest version.
        this.ssh.run = async (command) => (command.endsWith('pip install nni --upgrade') ? '' : run.call(this.ssh, command));
        await start.call(this);
    };
    Worker.prototype.findPython = async function () {
        return closedPython(await findPython.call(this), this);
    };
}

module.exports = { HOST, prepareWorkers };
