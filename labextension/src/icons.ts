import { LabIcon } from '@jupyterlab/ui-components';
import busySvg from '../style/icons/busy.svg';
import restoreSvg from '../style/icons/restore.svg';
import saveSvg from '../style/icons/save.svg';

export const saveIcon = new LabIcon({ name: 'jupyter-ckpt:save', svgstr: saveSvg });
export const busyIcon = new LabIcon({ name: 'jupyter-ckpt:busy', svgstr: busySvg });
export const restoreIcon = new LabIcon({ name: 'jupyter-ckpt:restore', svgstr: restoreSvg });
